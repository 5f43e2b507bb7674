"""Images in: bytes become pixels, pixels become batches."""
