"""The files that benchmarks are published in, read to the same rows.

- `base`: what a layout is, and a record of a file with its checks
- `files`: records of JSON, JSON lines and parquet
- `tsv`: VLMEvalKit's TSV files
- `open`: the layout that is in a folder, and its rows
"""
