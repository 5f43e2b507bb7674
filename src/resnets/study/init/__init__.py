"""Networks at initialisation: signals and gradients to 10,000 layers beside closed-form theory."""
