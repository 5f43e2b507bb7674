"""Score networks and model files."""
