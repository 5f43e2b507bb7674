"""Provide the networks: one class, and a table with a row for each network."""
