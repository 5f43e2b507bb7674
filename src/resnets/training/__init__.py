"""The run: a pure function of (resolved recipe, data, step)."""
