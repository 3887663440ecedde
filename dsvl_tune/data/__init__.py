"""Rows of data to batches; never sees weights."""
