"""Greedy answers from any family's model; questions about one image share its prefix."""
