"""What a run was made with: versions, the machine, the base checkpoint and its hashes."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.package import VERSION

LIBRARIES = ("torch", "lightning", "transformers", "peft", "safetensors", "tokenizers", "pillow")


def manifest(
    checkpoint: Checkpoint,
    quantization: str | None,
    inputs: Mapping[str, str],
    run_id: str,
) -> dict[str, Any]:
    """The content of `manifest.json`.

    Args:
        checkpoint: the base.
        quantization: of the base while training.
        inputs: hashes of what the run depends on.
        run_id: of the run, which its run checkpoints have too.
    """
    libraries = LIBRARIES if quantization is None else (*LIBRARIES, "bitsandbytes")
    return {
        "run": run_id,
        "dsvl_tune": VERSION,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "libraries": {name: version(name) for name in libraries},
        "checkpoint": {
            "name": checkpoint.name,
            "commit": checkpoint.commit,
            "folder": str(checkpoint.folder),
            "sha256": checkpoint.weight_hashes,
        },
        "quantization": quantization,
        "inputs": dict(inputs),
    }
