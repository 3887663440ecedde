"""Adapters and fully trained tensors into a base checkpoint, shard by shard: peak memory is a shard, not a model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from dsvl_tune.models.adapters import FULL_WEIGHTS
from dsvl_tune.models.export import ShardWriter, read_shard, write_other_files
from dsvl_tune.models.loading import weight_files
from dsvl_tune.schema import UserError


@dataclass
class Change:
    """What training did to one base tensor: LoRA factors, or a whole new tensor."""

    lora_a: Tensor | None = None
    lora_b: Tensor | None = None
    scaling: float = 0.0
    magnitude: Tensor | None = None
    replacement: Tensor | None = None

    def apply(self, base: Tensor) -> Tensor:
        """The trained tensor in float32.

        LoRA: W + scaling * B A (arXiv 2106.09685, section 4.1). DoRA: rows of that scaled to the learnt magnitude
        (arXiv 2402.09353, equation 5).
        """
        if self.replacement is not None:
            return self.replacement.float()
        assert self.lora_a is not None and self.lora_b is not None
        merged = base.float() + self.scaling * (self.lora_b.float() @ self.lora_a.float())
        if self.magnitude is not None:
            merged *= (self.magnitude.float() / torch.linalg.norm(merged, dim=1))[:, None]
        return merged


def read_changes(folder: Path) -> dict[str, Change]:
    """Every change that an adapter folder holds, by the base tensor's name.

    Raises:
        UserError: nothing trained there, or a tensor of a kind that cannot be merged.
    """
    changes: dict[str, Change] = {}
    if (folder / "adapter_config.json").is_file():
        config = LoraConfig.from_pretrained(str(folder))
        for name, tensor in load_file(folder / "adapter_model.safetensors").items():
            add_adapter_tensor(changes, name, tensor, config)
    if (folder / FULL_WEIGHTS).is_file():
        for name, tensor in load_file(folder / FULL_WEIGHTS).items():
            changes[name] = Change(replacement=tensor)
    if not changes:
        raise UserError(f"{folder}: neither an adapter nor {FULL_WEIGHTS} there. Give a finished run or its adapter.")
    return changes


def add_adapter_tensor(changes: dict[str, Change], name: str, tensor: Tensor, config: LoraConfig) -> None:
    """File one tensor of a peft adapter under the base tensor that it changes."""
    match = re.fullmatch(r"base_model\.model\.(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?", name)
    if match is None:
        raise UserError(f"adapter tensor {name}: only LoRA, rsLoRA and DoRA on linear layers can be merged.")
    module, kind = match[1], match[2]
    change = changes.setdefault(f"{module}.weight", Change())
    if kind == "lora_A":
        change.lora_a, change.scaling = tensor, scaling_of(module, tensor.shape[0], config)
    elif kind == "lora_B":
        change.lora_b = tensor
    else:
        change.magnitude = tensor


def scaling_of(module: str, rank: int, config: LoraConfig) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA; alpha by the pattern that fits the module, as peft matches it."""
    patterns = [key for key in config.alpha_pattern or {} if re.match(rf"(.*\.)?({key})$", module)]
    alpha = config.alpha_pattern[patterns[0]] if patterns else config.lora_alpha
    return float(alpha / rank**0.5 if config.use_rslora else alpha / rank)


def merge_into(base: Path, changes: dict[str, Change], target: Path, dtype: torch.dtype | None) -> dict[str, str]:
    """Write the merged checkpoint in transformers' layout, from a base in either layout.

    Args:
        base: checkpoint folder. changes: from `read_changes`. target: an empty folder.
        dtype: of the written weights; None keeps each tensor's.

    Returns:
        Name of each changed tensor -> "lora" or "full".

    Raises:
        UserError: a change names a tensor that the base does not have.
    """
    waiting = set(changes)
    with ShardWriter(target) as writer:
        for shard in tqdm(sorted(set(weight_files(base).values())), desc="merging", unit="file"):
            tensors = {name: cast(tensor, changes.get(name), dtype) for name, tensor in read_shard(shard)}
            writer.write(shard.name, tensors)
            waiting -= set(tensors)
    if waiting:
        example = min(waiting)
        raise UserError(f"{base}: {len(waiting)} trained tensors have no place there, e.g. {example}. Another base?")
    write_other_files(base, target, dtype)
    return {name: "full" if change.replacement is not None else "lora" for name, change in changes.items()}


def cast(tensor: Tensor, change: Change | None, dtype: torch.dtype | None) -> Tensor:
    """The tensor as it is written."""
    merged = tensor if change is None else change.apply(tensor)
    return merged.to(dtype or tensor.dtype)
