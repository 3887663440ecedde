"""Optimizer and schedule: AdamW with one group a part, linear warm-up, then cosine."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from dsvl_tune.families import family_of_model
from dsvl_tune.families.base import Plan, part_of


def make_optimizer(
    model: PreTrainedModel,
    plan: Plan,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> AdamW:
    """AdamW over what trains, a parameter group for each part with its own learning rate.

    Args:
        model: with the plan applied.
        plan: of its parts.
        lr: learning rate of parts that name none.
        betas: DeepSeek-VL trains with (0.9, 0.95) in all stages (arXiv 2403.05525, table 4).
        weight_decay: 0 in the paper; never applied to vectors and scalars (norms, biases, alpha).
    """
    parts = family_of_model(model).parts
    tensors: dict[tuple[str, bool], list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors[part_of(name, parts), parameter.ndim > 1].append(
                (f"model.{name}", parameter)
            )  # as checkpoints name it
    groups = [
        {
            "params": parameters,
            "lr": plan[part].lr or lr,
            "weight_decay": weight_decay if matrix else 0.0,
            "name": part if matrix else f"{part}/vectors",
        }
        for (part, matrix), parameters in tensors.items()
    ]
    optimizer = AdamW(groups, betas=betas)
    optimizer.register_load_state_dict_pre_hook(by_name)
    return optimizer


def by_name(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's saved state with the numbers that this optimizer has for the same names."""
    own = optimizer.state_dict()["param_groups"]
    numbers = {
        name: i
        for group in own
        for name, i in zip(group["param_names"], group["params"], strict=True)
    }
    saved = {group["name"]: group for group in state["param_groups"]}
    names = {
        i: n
        for group in saved.values()
        for n, i in zip(group["param_names"], group["params"], strict=True)
    }
    kept = ("params", "param_names")
    groups = [{**saved[group["name"]], **{key: group[key] for key in kept}} for group in own]
    return {
        "state": {numbers[names[i]]: slots for i, slots in state["state"].items()},
        "param_groups": groups,
    }


def warmup_cosine(
    optimizer: AdamW, warmup_steps: int, total_steps: int, final_share: float
) -> LambdaLR:
    """Learning-rate schedule by optimizer step.

    Rises linearly over `warmup_steps` (the first step already moves: 1 / warmup_steps of the rate), then falls by a
    half cosine to `final_share` of the rate at `total_steps` (arXiv 1608.03983, equation 5, without restarts).
    """

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, share)
