"""Learning rate by step: the default, and those of transformers by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from dsvl_tune.core.errors import UserError

ScheduleFactory = Callable[..., LRScheduler]
"""Makes a schedule of an optimizer: a class or function, or a `functools.partial` of one."""

ScheduleName = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
]
"""Schedules of transformers that are a function of the step."""


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


def named_schedule(
    optimizer: Optimizer,
    name: ScheduleName,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    options: dict[str, Any] | None = None,
) -> LRScheduler:
    """A schedule of transformers, by the names of its `get_scheduler`.

    Args:
        optimizer: whose groups are scheduled.
        name: of the schedule.
        num_warmup_steps: optimizer steps of warm-up; null takes model.warmup_steps.
        num_training_steps: optimizer steps in all; null takes those of the run.
        options: further arguments of this schedule, e.g. {min_lr_rate: 0.1} of
            cosine_with_min_lr, {num_decay_steps: 200} of warmup_stable_decay.

    Raises:
        UserError: an option is missing, or one that this schedule does not have.
    """
    from transformers import get_scheduler

    try:
        schedule: LRScheduler = get_scheduler(
            name, optimizer, num_warmup_steps, num_training_steps, options or {}
        )
    except (TypeError, ValueError) as error:
        raise UserError(
            f"lr_scheduler: {name}: {error}. Give what it needs in lr_scheduler.init_args.options."
        ) from error
    return schedule


def make_schedule(
    optimizer: Optimizer, factory: ScheduleFactory, *, warmup_steps: int, total_steps: int
) -> LRScheduler:
    """Make a schedule that is stepped after every optimizer step.

    Args:
        optimizer: whose groups are scheduled.
        factory: of the schedule. Its parameters `num_warmup_steps` and `num_training_steps` are
            filled in where it has them and they are not given.
        warmup_steps: optimizer steps of warm-up.
        total_steps: optimizer steps of the run.

    Raises:
        UserError: the schedule follows a logged value instead of the step.
    """
    known = {"num_warmup_steps": warmup_steps, "num_training_steps": total_steps}
    given = getattr(factory, "keywords", {})
    parameters = inspect.signature(factory).parameters
    missing = {
        name: steps
        for name, steps in known.items()
        if name in parameters and given.get(name) is None
    }
    schedule = factory(optimizer, **missing)
    if isinstance(schedule, ReduceLROnPlateau):
        raise UserError(
            "lr_scheduler: ReduceLROnPlateau follows a logged value; the learning rate of a run is "
            "a function of the step. Give another schedule."
        )
    return schedule
