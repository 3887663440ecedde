"""Faster forwards for modules of transformers and peft."""
