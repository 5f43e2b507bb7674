"""Train plain and residual twins, and other ways to be deep, at many depths."""
