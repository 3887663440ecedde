"""A base checkpoint, opened once, and what is read of its files.

`checkpoint` holds the noun; `weight_headers` reads the headers of its weight files,
`pickled_weights` the files of `torch.save`, `checksums` its SHA256SUMS, and `config_numbers` checks
config.json.
"""

from dsvl_tune.core.checkpoint.checkpoint import (
    EMBEDDED,
    Checkpoint,
    refuse_quantized,
    resolve_checkpoint,
)

__all__ = ["EMBEDDED", "Checkpoint", "refuse_quantized", "resolve_checkpoint"]
