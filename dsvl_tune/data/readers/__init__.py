"""Rows from files, folders, tables and streams."""
