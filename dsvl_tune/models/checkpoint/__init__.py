"""Base checkpoints: weights and checksums."""
