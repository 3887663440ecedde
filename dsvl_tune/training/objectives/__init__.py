"""Objectives: what a step minimizes."""
