"""Memory estimate of a training step."""
