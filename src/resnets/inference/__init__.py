"""Provide model files, prediction and test-time augmentation."""
