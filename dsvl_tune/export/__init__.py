"""Writing, merging and verifying checkpoints."""
