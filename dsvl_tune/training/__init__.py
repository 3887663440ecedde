"""The training step and everything around it that Lightning does not have."""
