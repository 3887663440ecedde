"""Janus and Janus-Pro: understanding images; what generates them is carried along."""
