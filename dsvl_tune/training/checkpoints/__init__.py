"""Run checkpoints: files and sharded folders."""
