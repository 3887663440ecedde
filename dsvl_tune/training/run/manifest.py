"""What a run was made of: versions, the machine, the base checkpoint and its hash."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dsvl_tune
from dsvl_tune.core.files import sha256
from dsvl_tune.core.weight_headers import weight_files

LIBRARIES = ("torch", "lightning", "transformers", "peft", "safetensors", "tokenizers", "pillow")


def manifest(checkpoint: Path, quantization: str | None = None) -> dict[str, Any]:
    """The content of `manifest.json`.

    Args:
        checkpoint: the base's folder. quantization: of the base while training.
    """
    libraries = LIBRARIES if quantization is None else (*LIBRARIES, "bitsandbytes")
    return {
        "dsvl_tune": dsvl_tune.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "libraries": {name: version(name) for name in libraries},
        "checkpoint": {"folder": str(checkpoint), "sha256": checkpoint_hashes(checkpoint)},
        "quantization": quantization,
    }


def checkpoint_hashes(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of each weight file."""
    return {path.name: sha256(path) for path in sorted(set(weight_files(checkpoint).values()))}
