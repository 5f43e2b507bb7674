"""Store trained networks in model files and classify images with them."""
