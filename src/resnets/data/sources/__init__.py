"""Provide readers of folders, manifests, .npz and parquet files, and the built-in data sets."""
