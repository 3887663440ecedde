"""Rows to conversations."""
