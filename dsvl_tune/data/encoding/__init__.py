"""Conversations to samples, samples to batches."""
