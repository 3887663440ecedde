"""Validation of rows before training: every row is read, rendered, measured and its images decoded.

- `row_stats`: `RowInspector`, from a conversation to its `RowStats`
- `inspect`: `inspect_rows`, the one pass over all rows, in many processes, with a cache
- `result_cache`: that cache on disk
- `report`: `SplitReport`, the results of a split counted
- `leakage`: held-out conversations that training data gives away, by `perceptual_hash`
"""
