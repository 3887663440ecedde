"""Objectives: what a step minimizes, one file each.

`base` says what an objective is (`Objective`, `Sums`), `supervised` is the token loss of
supervised fine-tuning, `chunked_cross_entropy` its head and cross entropy in small memory.
"""
