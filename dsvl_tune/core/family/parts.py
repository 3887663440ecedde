"""The named parts of a model, and what a plan does to each.

A family lists its parts once (`families/NAME/parts.py`); plans, tables, adapters, quantization and
exports go by their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

PartMode = Literal["frozen", "full", "lora"]


@dataclass(frozen=True)
class PartPlan:
    """What happens to one model part.

    Args:
        mode: frozen (no gradient), full (every tensor trained) or lora (low-rank adapters on its
            linear layers or experts).
        lr: learning rate; None takes `model.lr`.
        rank: rank of the adapters (lora only).
        alpha: adapters are scaled by alpha / rank; None takes 2 x rank.
    """

    mode: PartMode = "frozen"
    lr: float | None = None
    rank: int = 16
    alpha: float | None = None

    @property
    def scale_alpha(self) -> float:
        """Alpha with its default filled in."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


Plan = dict[str, PartPlan]
"""What happens to each model part, by its name."""


@dataclass(frozen=True)
class ModelPart:
    """A named part of a model.

    Every family has the parts "embed_tokens" and "lm_head", and at least one that can be quantized.

    Attributes:
        prefixes: of its tensors' names in transformers' layout, with "*" for any one component,
            e.g. the number of a layer; the longest prefix that fits wins, over all parts.
        lora_targets: regular expression of the full names of its linear layers, of experts' tensors
            instead; None where LoRA cannot go (convolutions, embeddings, bare parameters).
        optional: whether some checkpoints of the family lack this part.
        checkpointed_module: attribute of `model.model` whose layers activation checkpointing can
            recompute; None for parts without layers.
        carried: whether no step of training or answering uses the part: it stays frozen, is never
            loaded, and goes from the base's files into every export as it is.
        quantizable: whether its linear layers or experts are put into 4 bits where a base is
            quantized. These parts hold all of them of `model.model.language_model`.
        is_experts: whether its tensors hold one matrix for each expert, [E, N, K], in modules of
            `families.experts.StackedExperts`. A token uses few of them: a step may give some
            experts no gradient.
    """

    prefixes: tuple[str, ...]
    lora_targets: str | None = None
    optional: bool = False
    checkpointed_module: str | None = None
    carried: bool = False
    quantizable: bool = False
    is_experts: bool = False


Parts = Mapping[str, ModelPart]
"""The parts of a family by name."""


def part_of(name: str, parts: Parts) -> str:
    """The part that a tensor belongs to, tensors of adapters included.

    Args:
        name: of the tensor in transformers' layout.
        parts: of the family.
    """
    best, found = -1, ""
    for part, described in parts.items():
        for prefix in described.prefixes:
            match = prefix_pattern(prefix).match(name)
            if match and match.end() > best:
                best, found = match.end(), part
    if best < 0:
        raise ValueError(f"tensor {name} belongs to no known part")
    return found


@cache
def prefix_pattern(prefix: str) -> re.Pattern[str]:
    """A prefix of a part as a pattern."""
    return re.compile(re.escape(prefix).replace(r"\*", "[^.]+"))
