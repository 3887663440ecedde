"""What a run was made of: versions, the machine, the base checkpoint and its hash."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dsvl_tune
from dsvl_tune.models.loading import weight_files

LIBRARIES = ("torch", "lightning", "transformers", "peft", "safetensors", "tokenizers", "pillow")


def manifest(checkpoint: Path) -> dict[str, Any]:
    """The content of `manifest.json`."""
    return {
        "dsvl_tune": dsvl_tune.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "libraries": {name: version(name) for name in LIBRARIES},
        "checkpoint": {"folder": str(checkpoint), "sha256": checkpoint_hashes(checkpoint)},
    }


def checkpoint_hashes(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of each weight file."""
    hashes = {}
    for path in sorted(set(weight_files(checkpoint).values())):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
        hashes[path.name] = digest.hexdigest()
    return hashes
