"""Optimizer and learning rate: AdamW with one group a model part, linear warm-up, then cosine."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from dsvl_tune.families import family_of_model
from dsvl_tune.families.model_parts import Plan, part_of

VECTORS = "/vectors"
"""Ending of the names of groups that have no weight decay."""


def make_optimizer(
    model: PreTrainedModel,
    plan: Plan,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> AdamW:
    """AdamW over the trainable parameters, with a group for each model part and its learning rate.

    Args:
        model: with the plan applied.
        plan: of the model parts.
        lr: learning rate of parts that name none of their own.
        betas: DeepSeek-VL trains with (0.9, 0.95) in all stages (arXiv 2403.05525, table 4).
        weight_decay: 0 in the paper; never applied to vectors and scalars (norms, biases, alpha).
    """
    parts = family_of_model(model).parts
    tensors: dict[tuple[str, bool], list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim > 1
            # Named as in run checkpoints, where the network is the module's `model`.
            tensors[part_of(name, parts), is_matrix].append((f"model.{name}", parameter))
    groups = [
        {
            "params": parameters,
            "lr": plan[part].lr or lr,
            "weight_decay": weight_decay if is_matrix else 0.0,
            "name": part if is_matrix else f"{part}{VECTORS}",
        }
        for (part, is_matrix), parameters in tensors.items()
    ]
    optimizer = AdamW(groups, betas=betas)
    optimizer.register_load_state_dict_pre_hook(_renumber_by_name)
    return optimizer


def _renumber_by_name(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A saved state with its tensors numbered as in this optimizer, matched by name.

    Args:
        optimizer: whose state is loaded.
        state: state dict of an optimizer over the same names, in any order.
    """
    own_groups = optimizer.state_dict()["param_groups"]
    saved_groups = {group["name"]: group for group in state["param_groups"]}
    numbers = {name: number for group in own_groups for number, name in _numbered_names(group)}
    names = dict(pair for group in saved_groups.values() for pair in _numbered_names(group))
    groups = []
    for own in own_groups:
        order = {key: own[key] for key in ("params", "param_names")}
        groups.append({**saved_groups[own["name"]], **order})
    slots = {numbers[names[number]]: slot for number, slot in state["state"].items()}
    return {"state": slots, "param_groups": groups}


def _numbered_names(group: dict[str, Any]) -> list[tuple[int, str]]:
    """Number and name of each parameter of a group in a state dict."""
    return list(zip(group["params"], group["param_names"], strict=True))


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Learning rate of each model part, by its name.

    Args:
        optimizer: from `make_optimizer`.
    """
    return {group["name"].removesuffix(VECTORS): group["lr"] for group in optimizer.param_groups}


def warmup_cosine(
    optimizer: Optimizer, warmup_steps: int, total_steps: int, min_lr_ratio: float
) -> LambdaLR:
    """Learning rate by optimizer step: linear warm-up, then half a cosine.

    Step s of the warm-up (from 0) has (s + 1) / warmup_steps of the rate. Then the rate falls by
    half a cosine (arXiv 1608.03983, equation 5, without restarts) to `min_lr_ratio` of it at
    `total_steps`, and stays there.

    transformers has no schedule with these rates: its cosine schedules give the first step of
    the warm-up a rate of 0, or (`cosine_warmup_with_min_lr`) run one step ahead after it, so
    that the last step has the final rate, which is 0 by default.

    Args:
        optimizer: whose groups are scheduled.
        warmup_steps: 0 starts at the full rate.
        total_steps: optimizer steps of the run.
        min_lr_ratio: share of the rate at the end, 0..1.
    """

    def ratio(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, ratio)
