"""Answers of the base model to held-out questions, kept for later runs on the same base.

Before its first step every run answers the same questions with the same model. What a batch of
answers depends on is hashed: the base's files, the network as it computes (classes, dtypes,
precision, device, threads), this package's code, and every tensor of the batch. A run with the same
hash takes the answers from the cache folder, token by token the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from dsvl_tune.core.package import ROOTS
from dsvl_tune.core.storage.cache_folder import cache_folder
from dsvl_tune.core.storage.files import write_cached
from dsvl_tune.core.types import Prompts
from dsvl_tune.models.runtime.fsdp import local
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.run.inputs import run_inputs

FOLDER = "base_answers"
"""In the cache folder."""
KEPT_BATCHES = 20_000
"""Batches that are kept, of a few kilobytes each; beyond it the oldest go."""
LIBRARIES = ("ONEDNN_", "DNNL_", "MKL_", "CUBLAS_", "NVIDIA_TF32")
"""Beginnings of environment variables that change how matrices are multiplied."""
WITHOUT_EFFECT = (".lora_A", ".lora_B", ".lora_dropout")
"""In names of modules that add nothing before the first step; magnitudes of DoRA round."""
KNOWN_CODE = ("dsvl_tune.", "lightning.")
"""Packages of modules and callbacks that leave the base alone before the first step."""


@dataclass(frozen=True)
class BaseAnswers:
    """The kept answers of one base model.

    Attributes:
        key: Hash of what the model computes.
        folder: Of the kept answers.
    """

    key: str
    folder: Path

    def read(self, prompts: Prompts) -> Tensor | None:
        """Read the ids of the answers to a batch.

        Args:
            prompts: As the data loader gave them.

        Returns:
            [B, N] int64 on the CPU; None if they are not kept, or damaged.
        """
        try:
            rows = json.loads(self._file(prompts).read_text(encoding="utf-8"))
            ids = torch.tensor(rows, dtype=torch.int64)
        except (OSError, ValueError, TypeError, RuntimeError):
            return None
        return ids if ids.ndim == 2 and len(ids) == len(prompts.input_ids) else None

    def keep(self, prompts: Prompts, ids: Tensor) -> None:
        """Keep the ids of answers; without a cache folder that can be written nothing is kept.

        Args:
            prompts: As the data loader gave them.
            ids: [B, N] int64, of their answers.
        """
        text = json.dumps(ids.tolist())
        try:
            write_cached(self._file(prompts), lambda path: path.write_text(text, encoding="utf-8"))
        except OSError:
            return

    def remove_oldest(self) -> None:
        """Remove the oldest batches beyond `KEPT_BATCHES`, of all models."""
        try:
            found = [(path.stat().st_mtime, path) for path in self.folder.glob("*.json")]
            for _, path in sorted(found)[:-KEPT_BATCHES]:
                path.unlink(missing_ok=True)
        except OSError:
            return

    def _file(self, prompts: Prompts) -> Path:
        """Where the answers to a batch are kept."""
        return self.folder / f"{_digest([self.key, *_content(prompts)])}.json"


def open_base_answers(trainer: L.Trainer, module: FinetuneModule) -> BaseAnswers | None:
    """Open the kept answers of a run's base model; every rank must call this.

    Args:
        trainer: Of the run, before its first step.
        module: Its model, built.

    Returns:
        None if they are switched off, or if the model may answer otherwise than its base.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    own = [type(one).__module__ for one in (module, *callbacks)]
    is_base = (
        trainer.global_step == 0
        and all(name.startswith(KNOWN_CODE) for name in own)
        and not any(
            bool(local(parameter.detach()).any())
            for name, parameter in module.network.named_parameters()
            if ".lora_B." in name
        )
    )
    if not trainer.strategy.reduce_boolean_decision(module.reuse_base_answers and is_base):
        return None
    key = _digest(_model_content(trainer, module)) if trainer.is_global_zero else ""
    kept = BaseAnswers(trainer.strategy.broadcast(key), cache_folder(FOLDER))
    if trainer.is_global_zero:
        kept.remove_oldest()
    return kept


def _model_content(trainer: L.Trainer, module: FinetuneModule) -> list[Any]:
    """List what the answers of a model depend on, besides the questions.

    Adapters whose second matrix is zero add nothing, so their ranks do not count.
    """
    device = module.device
    is_gpu = device.type == "cuda"
    parts = [
        (name, type(part).__qualname__)
        for name, part in module.network.named_modules()
        if not any(one in name for one in WITHOUT_EFFECT)
    ]
    weights = [
        (name, str(weight.dtype))
        for name, weight in module.network.named_parameters()
        if not any(one in name for one in WITHOUT_EFFECT)
    ]
    return [
        run_inputs(module.base, None, []),
        module.network.generation_config.to_dict(),
        module.max_new_tokens,
        parts,
        weights,
        [module.attention, module.feature_dtype, str(trainer.precision)],
        [trainer.world_size, type(trainer.strategy).__qualname__],
        [torch.cuda.get_device_name(device) if is_gpu else platform.processor(), device.type],
        [torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()],
        sorted((name, value) for name, value in os.environ.items() if name.startswith(LIBRARIES)),
        [torch.__version__, _version("transformers"), _version("peft")],
        sorted({path: _file_hash(path) for path in _code()}.items()),
    ]


def _content(prompts: Prompts) -> list[Any]:
    """List what the answers to a batch depend on: every tensor, and which images are cached."""
    tensors = {
        "ids": prompts.input_ids,
        "mask": prompts.attention_mask,
        "images": prompts.image_index,
        **{f"vision {name}": tensor for name, tensor in prompts.vision_inputs.items()},
        **{f"feature {name}": tensor for name, tensor in prompts.features.items()},
    }
    described = [(name, _tensor_hash(tensor)) for name, tensor in sorted(tensors.items())]
    return [described, prompts.image_counts, prompts.feature_keys]


def _tensor_hash(tensor: Tensor) -> str:
    """Hash a CPU tensor of any shape and dtype."""
    content: Any = tensor.contiguous().flatten().view(torch.uint8).numpy()
    return _digest([str(tensor.dtype), list(tensor.shape), hashlib.sha256(content).hexdigest()])


def _code() -> Iterable[str]:
    """List the files of this package's code."""
    return [str(path) for root in ROOTS[:1] for path in root.rglob("*.py")]


def _file_hash(path: str) -> str:
    """Hash a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _version(package: str) -> str:
    """Return the version of an installed package."""
    from importlib.metadata import version

    return version(package)


def _digest(content: Any) -> str:
    """Hash what JSON can write."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()
