"""Whether the state in a run checkpoint fits the run that resumes from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L

from dsvl_tune.core.errors import UserError
from dsvl_tune.training.checkpoints.run_state import is_finite

NEEDED = ("callbacks", "loops", "lr_schedulers", "optimizer_states")
"""Keys of a checkpoint that a run resumes from."""
NEEDED_CALLBACKS = ("HeldOutEvaluation", "LastCheckpoint")


def check_resumed(trainer: L.Trainer) -> None:
    """Compare the checkpoint that a trainer is about to restore with the run.

    Lightning skips what is missing, and torch takes what is too much into its objects.

    Args:
        trainer: set up, its optimizer and loops not restored yet.

    Raises:
        UserError: the checkpoint lacks a state, or has one of another schedule.
    """
    checkpoint = trainer._checkpoint_connector._loaded_checkpoint
    if not checkpoint:
        return
    missing = [key for key in NEEDED if not checkpoint.get(key)]
    missing += [name for name in NEEDED_CALLBACKS if name not in checkpoint.get("callbacks", {})]
    if missing:
        raise unfit(trainer, f"it has no {missing[0]}")
    own = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    if problem := problem_in_schedules(own, checkpoint["lr_schedulers"]):
        raise unfit(trainer, problem)


def unfit(trainer: L.Trainer, reason: str) -> UserError:
    """The error for a checkpoint that the run cannot resume from."""
    return UserError(
        f"{trainer.ckpt_path}: the run cannot resume from this checkpoint: {reason}. Give another "
        "one, or start a new run with --resume never."
    )


def problem_in_schedules(
    own: Sequence[Mapping[str, Any]], saved: Sequence[Mapping[str, Any]]
) -> str | None:
    """What the states of schedules in a checkpoint have that those of the run have not.

    Args:
        own: states of the run's schedules.
        saved: states in the checkpoint.
    """
    if len(own) != len(saved):
        return f"it has {len(saved)} schedules, the run has {len(own)}"
    for one, other in zip(own, saved, strict=True):
        if differing := sorted(map(str, one.keys() ^ other.keys())):
            return f"the schedule's {differing[0]} is only in one of them"
        for key, value in one.items():
            if not _is_alike(value, other[key]):
                return f"the schedule's {key} is of another kind"
    return None


def _is_alike(own: Any, saved: Any) -> bool:
    """Whether a saved value can stand for one of the run's own."""
    if isinstance(own, bool):
        return isinstance(saved, bool)
    if isinstance(own, (int, float)):
        return is_finite(saved)
    if isinstance(own, (list, tuple)):
        return isinstance(saved, (list, tuple)) and len(own) == len(saved)
    return True
