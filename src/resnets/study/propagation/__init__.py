"""Measure how signals and gradients propagate through networks at initialisation."""
