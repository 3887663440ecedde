"""The optimizer: AdamW or one that the recipe names, with one group a model part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Plan
from dsvl_tune.training.checkpoints.run_state import is_finite
from dsvl_tune.training.parameter_groups import parameter_groups

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter besides the step, of the parameter's shape."""

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

    Raises:
        UserError: the state is that of other parameters or settings.
    """
    own_groups = optimizer.state_dict()["param_groups"]
    saved_groups = {group.get("name"): group for group in state["param_groups"]}
    numbers = {name: number for group in own_groups for number, name in _numbered_names(group)}
    names = dict(pair for group in saved_groups.values() for pair in _numbered_names(group))
    groups = []
    for own in own_groups:
        check_group(own, saved_groups.get(own["name"]))
        order = {key: own[key] for key in ("params", "param_names")}
        groups.append({**saved_groups[own["name"]], **order})
    if strange := sorted(set(names.values()) - numbers.keys()):
        raise UserError(f"resuming: the checkpoint's optimizer has {strange[0]}, this run has not.")
    slots = {numbers[names[number]]: slot for number, slot in state["state"].items()}
    check_slots(optimizer, slots)
    return {"state": slots, "param_groups": groups}


def check_group(own: Mapping[str, Any], saved: Mapping[str, Any] | None) -> None:
    """Compare the settings of a parameter group with those in a checkpoint.

    Flags may be missing there: releases of torch add some.

    Args:
        own: group of this optimizer's state dict.
        saved: group of that name in the checkpoint; None without one.

    Raises:
        UserError: a setting is missing, unknown, or not of its kind.
    """
    place = f"resuming: group {own['name']} of the checkpoint's optimizer"
    if saved is None:
        raise UserError(f"{place} is missing. Resume with the recipe that wrote it.")
    if strange := sorted(map(str, saved.keys() - own.keys())):
        raise UserError(f"{place} has {strange[0]}, which this optimizer has not.")
    for key, value in own.items():
        values, others = _as_tuple(value), _as_tuple(saved.get(key))
        numbers = [isinstance(one, (int, float)) and not isinstance(one, bool) for one in values]
        fits = len(values) == len(others) and all(
            is_finite(other) for other, number in zip(others, numbers, strict=True) if number
        )
        if any(numbers) and not fits:
            raise UserError(f"{place} has no {key} of finite numbers.")
        flag = saved.get(key, value)
        if (isinstance(value, bool) and flag is not value) or (
            value is None and not isinstance(flag, (bool, NoneType))
        ):
            raise UserError(f"{place} has another {key} than this optimizer.")


def _as_tuple(value: Any) -> tuple[Any, ...]:
    """The values of a setting that has several, such as betas."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def check_slots(optimizer: Optimizer, slots: Mapping[int, Mapping[str, Any]]) -> None:
    """Compare what a checkpoint keeps of each parameter with the parameters.

    Args:
        optimizer: whose state is loaded.
        slots: by the number of the parameter in this optimizer.

    Raises:
        UserError: a moment is of another shape, a step is no count, or a parameter lacks a slot
            that others of its optimizer have.
    """
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    is_adam = isinstance(optimizer, AdamW)
    for number, kept in slots.items():
        place = f"resuming: the checkpoint's optimizer has, of parameter {number},"
        if is_adam and not {"step", *MOMENTS} <= kept.keys() <= {
            "step",
            "max_exp_avg_sq",
            *MOMENTS,
        }:
            raise UserError(f"{place} other values than AdamW keeps.")
        if "step" in kept and not (is_finite(kept["step"]) and kept["step"] >= 0):
            raise UserError(f"{place} a step that is no count.")
        for key in (*MOMENTS, "max_exp_avg_sq", "momentum_buffer"):
            shape = parameters[number].shape
            if kept.get(key) is not None and getattr(kept[key], "shape", None) != shape:
                raise UserError(f"{place} no tensor {key} of shape {list(shape)}.")


def _numbered_names(group: dict[str, Any]) -> list[tuple[int, str]]:
    """Number and name of each parameter of a group in a state dict."""
    return list(zip(group["params"], group["param_names"], strict=True))
