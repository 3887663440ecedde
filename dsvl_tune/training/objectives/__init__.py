"""Objectives: what a step minimizes, one file each.

`base` says what an objective is (`Objective`, `Sums`), `supervised` is the token loss of
supervised fine-tuning, `balanced` the same with a loss for evenly used experts, and
`chunked_cross_entropy` head and cross entropy in small memory.
"""
