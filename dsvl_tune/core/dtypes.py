"""Names of the dtypes that weights can have: torch's, and safetensors' in a file's header."""

from __future__ import annotations

from typing import Literal

import torch

from dsvl_tune.core.errors import UserError

DtypeName = Literal["float32", "bfloat16", "float16"]

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

SAFETENSORS_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""Source: github.com/huggingface/safetensors, README, Format."""

NAMES_IN_FILES = {stored: name for name, stored in SAFETENSORS_NAMES.items()}
"""The name of a dtype by what safetensors calls it."""


def dtype_of(name: str, key: str) -> torch.dtype:
    """The dtype of a name.

    Args:
        name: of the dtype.
        key: recipe key or option that gives it, for the message.

    Raises:
        UserError: no weights can have it.
    """
    if name not in DTYPES:
        raise UserError(f"{key}: unknown dtype {name!r}; expected one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype, e.g. "bfloat16"."""
    return str(dtype).removeprefix("torch.")
