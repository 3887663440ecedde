"""Trainable parameters in groups: one a model part, with its learning rate and weight decay."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from dsvl_tune.core.family import Plan, part_of
from dsvl_tune.families import family_of_model

GROUP_SEPARATOR = "/"
"""Between the name of a model part and what distinguishes a further group of it."""
VECTORS = f"{GROUP_SEPARATOR}vectors"
"""Ending of the names of groups that have no weight decay."""


def parameter_groups(
    model: PreTrainedModel, plan: Plan, *, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """The trainable parameters with their names, in a group or two for each model part.

    Args:
        model: with the plan applied.
        plan: of the model parts.
        lr: learning rate of parts that name none of their own.
        weight_decay: of matrices; vectors and scalars (norms, biases, alpha) have none.
    """
    parts = family_of_model(model).parts
    tensors: dict[tuple[str, bool], list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim > 1
            # Named as in run checkpoints, where the network is the module's `model`.
            tensors[part_of(name, parts), is_matrix].append((f"model.{name}", parameter))
    return [
        {
            "params": parameters,
            "lr": plan[part].lr or lr,
            "weight_decay": weight_decay if is_matrix else 0.0,
            "name": part if is_matrix else f"{part}{VECTORS}",
        }
        for (part, is_matrix), parameters in tensors.items()
    ]


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Learning rate of each model part, by its name.

    Args:
        optimizer: over groups of `parameter_groups`.
    """
    groups = optimizer.param_groups
    return {group["name"].partition(GROUP_SEPARATOR)[0]: group["lr"] for group in groups}
