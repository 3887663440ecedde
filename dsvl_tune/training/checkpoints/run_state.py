"""What a run checkpoint says of the run besides its tensors: progress, schedule and callbacks.

Lightning and torch take most of it as it is, into attributes of their objects, so it is checked
before. What is left for them to refuse are states of callbacks and schedules of one's own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

LIGHTNING = "pytorch-lightning_version"
"""Key of the release that wrote a checkpoint; Lightning converts those of old ones."""
VERSION = re.compile(r"[2-9](\.\d{1,9}){0,3}((a|b|rc|\.dev|\.post)\d{1,9})?(\+[a-z0-9.]{1,40})?")
MOST = 2**53
"""No count of a run is as large."""
MOST_DEPTH = 8
"""No state is nested as deeply; Lightning's loops have five levels."""
TRACKER = {"ready", "started", "processed", "completed"}
"""Counts of Lightning's loops."""
OPTIMIZER_STEPS = "epoch_loop.automatic_optimization.optim_progress"
"""Key of the fit loop: what `Trainer.global_step` is counted by."""


def problem_in_run_state(content: Mapping[str, Any]) -> str | None:
    """What a run checkpoint's content has besides tensors that no run writes; None if nothing.

    Args:
        content: of a run checkpoint.
    """
    if not is_count(content["global_step"]):
        return "global_step is no count"
    version = content.get(LIGHTNING, "2")
    if not isinstance(version, str) or not VERSION.fullmatch(version):
        return f"{LIGHTNING} is none from 2 on"
    if not is_count(content.get("epoch", 0)):
        return "epoch is no count"
    if not is_count(content.get("nonfinite_steps", 0)):
        return "nonfinite_steps is no count"
    interval = content.get("interval", [])
    if not isinstance(interval, list) or not all(map(_is_sums, interval)):
        return "interval has no sums of steps"
    return (
        _problem_in_loops(content.get("loops", {}), content["global_step"])
        or _problem_in_schedules(content.get("lr_schedulers", []))
        or _problem_in_callbacks(content.get("callbacks", {}))
    )


def is_count(value: Any) -> bool:
    """Whether a value counts something."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST


def is_plain_tensor(value: Any) -> bool:
    """Whether a value is a tensor with its values in memory: not sparse, quantized or without."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_nested
    )


def is_number(value: Any) -> bool:
    """Whether a value is a number, possibly infinite, or a tensor of one."""
    if isinstance(value, torch.Tensor):
        if not is_plain_tensor(value) or value.numel() != 1 or value.is_complex():
            return False
        value = value.item()
    return isinstance(value, (int, float)) and value == value


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number, or a tensor of one."""
    return is_number(value) and -math.inf < value < math.inf


def _is_sums(value: Any) -> bool:
    """Whether a value is what `IntervalMeans` keeps of a step."""
    if not is_plain_tensor(value) or value.ndim != 2 or value.shape[1] != 2:
        return False
    if not value.is_contiguous() or not value.is_floating_point():
        return False  # of another stride, few bytes can stand for much memory
    weights = value[:, 1]
    return bool(weights.isfinite().all() and (weights >= 0).all())


def _problem_in_loops(loops: Any, global_step: int) -> str | None:
    """What the progress of Lightning's loops has that no run writes."""
    if not isinstance(loops, dict):
        return f"loops is {type(loops).__name__}"
    if problem := _problem_in_progress(loops, "loops", MOST_DEPTH):
        return problem
    fit_loop = loops.get("fit_loop", {})
    steps: Any = fit_loop.get(OPTIMIZER_STEPS) if isinstance(fit_loop, dict) else None
    for key in ("optimizer", "step", "total", "completed"):
        steps = steps.get(key) if isinstance(steps, dict) else None
    if loops and steps != global_step:
        return "its loops are at another step than the checkpoint"
    return None


def _problem_in_progress(node: Any, place: str, depth: int) -> str | None:
    """What a part of the progress has that Lightning does not write.

    Args:
        node: a mapping of counts, flags and further mappings.
        place: of the node, for the message.
        depth: levels that may follow.
    """
    if not isinstance(node, dict) or not depth:
        return f"{place} is no progress of a loop"
    if set(node) & TRACKER and not {"ready", "completed"} <= set(node) <= TRACKER:
        return f"{place} has other counts than a loop"
    for key, value in node.items():
        here = f"{place}.{key}"
        if not isinstance(key, str):
            return f"{place} has a key that is no text"
        if key in TRACKER or key == "_batches_that_stepped":
            problem = None if is_count(value) else f"{here} is no count"
        elif key == "is_last_batch":
            problem = None if isinstance(value, bool) else f"{here} is neither true nor false"
        elif key == "combined_loader":  # the loader compares it with its own
            fits = isinstance(value, list) and all(isinstance(one, dict) for one in value)
            problem = None if fits else f"{here} is no list of states"
        else:
            problem = _problem_in_progress(value, here, depth - 1)
        if problem:
            return problem
    return None


def _problem_in_schedules(schedules: Any) -> str | None:
    """What the states of learning rate schedules have that none writes; keys are compared later."""
    if not isinstance(schedules, list) or not all(isinstance(one, dict) for one in schedules):
        return "lr_schedulers is no list of states"
    for state in schedules:
        for key in ("last_epoch", "_step_count"):
            if key in state and not is_count(state[key]):
                return f"{key} of the schedule is no count"
        for key in ("base_lrs", "_last_lr"):
            if key in state and not _is_rates(state[key]):
                return f"{key} of the schedule is no list of finite numbers"
    return None


def _is_rates(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_finite, value))


def _is_figures(value: Any) -> bool:
    """Whether a value is a mapping of figures by name."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(figure, (int, float)) and is_finite(figure)
        for name, figure in value.items()
    )


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and is_finite(value) and value >= 0


KEPT: dict[str, dict[str, Callable[[Any], bool]]] = {
    "ForgettingGuard": {"was_kept": _is_flag},
    "HeldOutEvaluation": {"before": _is_figures, "wall_s": _is_seconds},
    "LastCheckpoint": {"ended_early": _is_flag},
    "Tracking": {"pictures_logged": _is_flag},
    "EarlyStopping": {
        "wait_count": is_count,
        "stopped_epoch": is_count,
        "best_score": is_number,
        "patience": is_count,
    },
}
"""Callback of ours or Lightning's -> key of its state -> whether it can have a value."""
BEST = ("ModelCheckpoint", "FloorCheckpoint")
"""Callbacks that keep the best checkpoints."""
OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "validation_due": _is_flag,
    "owes_validation": _is_flag,
    "logged_rows": is_count,
}
"""Keys of the last checkpoint that some releases lack."""


def _problem_in_callbacks(callbacks: Any) -> str | None:
    """What the states of callbacks have that ours and Lightning's checkpoints do not write."""
    if not isinstance(callbacks, dict):
        return f"callbacks is {type(callbacks).__name__}"
    for name, state in callbacks.items():
        if not isinstance(name, str) or not isinstance(state, dict):
            return "the state of a callback is no mapping"
        kind = name.partition("{")[0]  # Lightning adds arguments of the callback
        for key, can_be in KEPT.get(kind, {}).items():
            if not can_be(state.get(key)):
                return f"{key} of {kind} is missing or of another kind"
        for key, can_be in OPTIONAL.items():
            if kind == "LastCheckpoint" and key in state and not can_be(state[key]):
                return f"{key} of {kind} is of another kind"
        if (kind in BEST or "best_k_models" in state) and (problem := _problem_in_best(state)):
            return problem
    return None


def _problem_in_best(state: dict[str, Any]) -> str | None:
    """What the state of Lightning's ModelCheckpoint has that it does not write.

    It removes the files that it names, so these have to be in its own folder.
    """
    if not {"best_model_path", "best_model_score"} <= state.keys():
        return "ModelCheckpoint has no best_model_path or best_model_score"
    best = state.get("best_k_models", {})
    if not isinstance(best, dict) or not all(map(is_number, best.values())):
        return "best_k_models is no mapping of paths and scores"
    scores = [state.get(key) for key in ("best_model_score", "current_score", "kth_value")]
    if not all(score is None or is_number(score) for score in scores):
        return "a score of ModelCheckpoint is no number"
    folder = state.get("dirpath")
    keys = ("best_model_path", "kth_best_model_path", "last_model_path")
    for path in [*best, *(state.get(key, "") for key in keys)]:
        if not isinstance(path, str) or not isinstance(folder, str):
            return "a path of ModelCheckpoint is no text"
        parts = Path(path).parts
        if path and (Path(folder) not in Path(path).parents or ".." in parts or "\0" in path):
            return f"ModelCheckpoint names {path[:200]!r}, which is not in its folder"
    return None
