"""Adapters and fully trained tensors into a base checkpoint, file by file.

Peak memory is a file, not a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor

from dsvl_tune.core.checkpoint.weight_headers import Stored
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Family, Layout, Shapes
from dsvl_tune.export.write_settings import write_other_files
from dsvl_tune.export.write_weights import Alter, write_weights
from dsvl_tune.models.checkpoint.weights import Weights, read_tensor
from dsvl_tune.models.finetuning.adapter_files import matched
from dsvl_tune.models.finetuning.adapter_fit import adapted_layer
from dsvl_tune.models.finetuning.expert_adapters import stacked_factors, wrapped_parameters
from dsvl_tune.models.finetuning.trained_files import open_trained


@dataclass
class Change:
    """What training did to one base tensor, [N, K] or [E, N, K].

    Attributes:
        lora_a: [..., rank, K], any floating dtype; None where the whole tensor was trained.
        lora_b: [..., N, rank], likewise.
        scaling: of the adapter.
        magnitude: [N], of DoRA; None without it.
        replacement: the whole trained tensor, read when it is needed.
    """

    lora_a: Tensor | None = None
    lora_b: Tensor | None = None
    scaling: float = 0.0
    magnitude: Tensor | None = None
    replacement: Stored | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the base tensor that this can change."""
        if self.replacement is not None:
            return self.replacement.shape
        assert self.lora_a is not None and self.lora_b is not None
        return (*self.lora_b.shape[:-1], self.lora_a.shape[-1])

    def apply(self, base: Tensor) -> Tensor:
        """The trained tensor.

        LoRA: W + scaling * B A (arXiv 2106.09685, section 4.1). DoRA: rows of that scaled to the
        trained magnitude (arXiv 2402.09353, equation 5). In float64 the order of the sums does not
        show in what is written, except for about one value in 2^29 that is at a tie of rounding. So
        every processor writes the same tensors, and they can be compared with a single rounding.

        Args:
            base: [N, K] or [E, N, K], any floating dtype.

        Returns:
            [N, K] or [E, N, K]: float32 where the whole tensor was trained, float64 of a merged
            adapter.
        """
        if self.replacement is not None:
            return read_tensor(self.replacement).float()
        assert self.lora_a is not None and self.lora_b is not None
        add_product = torch.addmm if base.ndim == 2 else torch.baddbmm
        merged = add_product(
            base.double(), self.lora_b.double(), self.lora_a.double(), alpha=self.scaling
        )
        if self.magnitude is not None:
            merged *= (self.magnitude.double() / torch.linalg.norm(merged, dim=1))[:, None]
        return merged


def read_changes(folder: Path, family: Family, shapes: Shapes | None = None) -> dict[str, Change]:
    """Every change that an adapter folder holds, by the base tensor's name.

    Args:
        folder: of the adapter.
        family: of the base.
        shapes: of the base's tensors, in the order of its modules: adapters of stacked experts can
            be assigned by them alone.

    Raises:
        UserError: the adapter trains nothing, a file is damaged, or a tensor cannot be merged.
    """
    files = open_trained(folder, family)
    changes: dict[str, Change] = {}
    if files.config is not None:
        wrapped = wrapped_parameters(files.config, shapes or {})
        scalings = scalings_of(files.adapters, wrapped, files.config)
        for name, stored in files.adapters.items():
            add_adapter_tensor(changes, name, read_tensor(stored), scalings, wrapped)
        for name in wrapped.values():
            if name in changes and shapes is not None:
                split_experts(changes[name], shapes[name], f"{folder}: the adapter of {name}")
    for name, change in changes.items():
        if change.lora_a is None or change.lora_b is None:
            raise UserError(
                f"{folder}: the adapter of {name} lacks lora_A or lora_B. Copy the adapter again."
            )
    return changes | {name: Change(replacement=stored) for name, stored in files.full.items()}


def add_adapter_tensor(
    changes: dict[str, Change],
    name: str,
    tensor: Tensor,
    scalings: Mapping[str, float],
    wrapped: Mapping[str, str],
) -> None:
    """Add one tensor of a peft adapter to the change of its base tensor.

    Args:
        changes: by the base tensor's name; extended in place.
        name: of the adapter's tensor, in peft's words.
        tensor: [rank, K], [N, rank] or [N], by its name; of any floating dtype.
        scalings: of the adapters, by the layer's or parameter's name in the base.
        wrapped: parameters that are adapted themselves, by the layer's name in the file.

    Raises:
        UserError: the tensor is of a kind that cannot be merged.
    """
    match = re.fullmatch(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?", name)
    if match is None:
        raise UserError(
            f"adapter tensor {name}: only LoRA, rsLoRA and DoRA on linear layers can be merged."
        )
    layer, kind = match[1], match[2]
    target = wrapped.get(layer, layer)
    change = changes.setdefault(target if layer in wrapped else f"{layer}.weight", Change())
    if kind == "lora_A":
        change.lora_a, change.scaling = tensor, scalings[target]
    elif kind == "lora_B":
        change.lora_b = tensor
    else:
        change.magnitude = tensor


def split_experts(change: Change, shape: tuple[int, ...], place: str) -> None:
    """Give the change of a stack of experts its factors expert by expert, in place.

    Args:
        change: with both factors as the file has them.
        shape: [E, N, K] of the base's tensor.
        place: of the adapter, for the message.

    Raises:
        UserError: the factors do not fit the tensor.
    """
    if change.lora_a is not None and change.lora_b is not None:
        factors = stacked_factors(change.lora_a, change.lora_b, shape, place)
        change.lora_a, change.lora_b = factors


def scalings_of(
    names: Iterable[str], wrapped: Mapping[str, str], config: LoraConfig
) -> dict[str, float]:
    """Scaling of each adapter: alpha / rank, or alpha / sqrt(rank) for rsLoRA.

    Both are those of the pattern that fits the layer or parameter, as peft matches it.

    Args:
        names: of the adapter's tensors.
        wrapped: parameters that are adapted themselves, by the layer's name in the file.
        config: of the adapter.

    Returns:
        By the layer's or parameter's name in the base.

    Raises:
        UserError: a pattern is faulty or takes too long.
    """
    layers = dict.fromkeys(map(adapted_layer, names))
    targets = [wrapped.get(layer, layer) for layer in layers]
    alphas = matched(config.alpha_pattern, targets, config.lora_alpha, "alpha_pattern")
    ranks = matched(config.rank_pattern, targets, config.r, "rank_pattern")
    power = 0.5 if config.use_rslora else 1
    return {target: float(alphas[target] / ranks[target] ** power) for target in targets}


def check_changes(weights: Weights, changes: dict[str, Change]) -> None:
    """Compare what was trained with the base.

    Raises:
        UserError: a change names a tensor that the base lacks, or is of another shape.
    """
    folder = weights.checkpoint.folder
    if strange := sorted(set(changes) - set(weights.shapes)):
        raise UserError(
            f"{folder}: {len(strange)} trained tensors have no place there, e.g. {strange[0]}. Was "
            "another base trained?"
        )
    for name, change in changes.items():
        if change.shape != weights.shapes[name]:
            raise UserError(
                f"{folder}: tensor {name} has shape {list(weights.shapes[name])}, what was trained "
                f"has {list(change.shape)}. Was another base trained?"
            )


def merge_into(
    weights: Weights,
    changes: dict[str, Change],
    target: Path,
    layout: Layout,
    dtype: torch.dtype | None,
) -> None:
    """Write base and changes as one checkpoint; without changes, this converts.

    Args:
        weights: the base, in either layout.
        changes: accepted by `check_changes`.
        target: an empty folder.
        layout: to write.
        dtype: of the written weights; None keeps each tensor's.
    """
    write_weights(weights, target, layout, apply_changes(changes), dtype)
    write_other_files(weights.checkpoint, target, layout)


def apply_changes(changes: dict[str, Change]) -> Alter:
    """What merging writes for a base tensor, given its name and values."""
    return lambda name, base: changes[name].apply(base) if name in changes else base
