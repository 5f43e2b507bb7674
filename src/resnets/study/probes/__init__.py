"""Measure what the blocks of a trained network do."""
