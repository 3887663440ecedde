"""Safetensors files: from tensors in memory, or written tensor by tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

KINDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""Names of dtypes in safetensors headers (github.com/huggingface/safetensors, "Format")."""


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Save tensors to a safetensors file with ordinary permissions.

    safetensors itself creates files that only their owner can read.

    Args:
        path: the file to write.
        tensors: any shapes and dtypes, by name.
    """
    on_cpu = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    save_file(on_cpu, path, metadata={"format": "pt"})
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def stream_tensors(path: Path, like: dict[str, Tensor], read: Callable[[str], Tensor]) -> None:
    """Save a safetensors file tensor by tensor, holding one in memory at a time.

    Args:
        path: the file to write.
        like: tensors with the names, shapes and dtypes to write; their values are not used.
        read: returns the values of a name, in the shape of `like`.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in like.items():
        begin = end
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": KINDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors to 8 bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name, tensor in like.items():
            values = read(name).to(tensor.dtype).contiguous().cpu()
            file.write(values.flatten().view(torch.uint8).numpy().data)
