"""Readers of image data: folders, manifests, .npz files, parquet files and built-in data sets."""
