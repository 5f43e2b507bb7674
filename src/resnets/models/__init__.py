"""The network: one class, every family a row of a table."""
