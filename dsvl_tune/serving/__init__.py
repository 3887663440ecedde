"""Exported checkpoints in other people's servers."""
