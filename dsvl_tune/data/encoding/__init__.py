"""From conversations to batches.

`tokenize` turns a conversation into a `Sample` (`encode`) or a prompt (`encode_prompt`), `packing`
puts several samples into one row, `collate` pads rows to a batch, and `batches` does it all for a
loader's worker (`make_batch`, `make_prompts`).
"""
