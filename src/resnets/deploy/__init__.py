"""The model file at work."""
