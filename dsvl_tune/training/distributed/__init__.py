"""Strategies and agreement between ranks."""
