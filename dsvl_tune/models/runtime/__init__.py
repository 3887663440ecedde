"""Attention masks, activation checkpointing, compilation, sharding."""
