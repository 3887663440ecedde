"""Weights and modules. Nothing in this room knows a row of data."""
