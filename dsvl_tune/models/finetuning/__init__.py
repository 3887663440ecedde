"""Adapters and quantization."""
