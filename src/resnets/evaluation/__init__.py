"""Provide the scores of classifiers."""
