"""The optimizer: AdamW or one that the recipe names, with one group a model part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Plan
from dsvl_tune.training.parameter_groups import parameter_groups

OptimizerFactory = Callable[..., Optimizer]
"""Makes an optimizer of parameter groups: a class or function, or a `functools.partial` of one."""


def make_optimizer(
    model: PreTrainedModel,
    plan: Plan,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    factory: OptimizerFactory | None = None,
) -> Optimizer:
    """An optimizer over the trainable parameters, with groups for each model part.

    Args:
        model: with the plan applied.
        plan: of the model parts.
        lr: learning rate of parts that name none of their own.
        betas: of AdamW. DeepSeek-VL trains with (0.9, 0.95) in all stages (arXiv 2403.05525, table
            4).
        weight_decay: 0 in the paper; never applied to vectors and scalars (norms, biases, alpha).
        factory: of another optimizer than AdamW.

    Raises:
        UserError: the other optimizer does not take these parameters.
    """
    groups = parameter_groups(model, plan, lr=lr, weight_decay=weight_decay)
    if factory is None:
        optimizer: Optimizer = AdamW(groups, betas=betas)
    else:
        try:
            optimizer = factory(groups)
        except (TypeError, ValueError, ImportError, NotImplementedError) as error:
            raise UserError(f"optimizer: {type(error).__name__}: {error}") from error
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
