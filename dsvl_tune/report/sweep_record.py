"""What a page and the terminal show of a sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dsvl_tune.report.tables import known_figure


@dataclass(frozen=True)
class SweptKey:
    """A key of the recipe that trials change.

    Attributes:
        name: Dotted key.
        choices: The values that are tried; () for a range of numbers.
        is_log: Whether the range is on a log scale.
    """

    name: str
    choices: Sequence[Any]
    is_log: bool


@dataclass(frozen=True)
class TrialRecord:
    """A trial.

    Attributes:
        name: Of its run folder.
        state: "finished", "pruned", "failed" or "running".
        values: Value by dotted key.
        figure: Best monitored figure of its validations; None before the first one.
        steps: Optimizer steps until its last validation.
        wall_s: Time it took in seconds; None unless it is finished.
        after: Figures on the held-out test rows after training, by name.
    """

    name: str
    state: str
    values: Mapping[str, Any]
    figure: float | None
    steps: int
    wall_s: float | None
    after: Mapping[str, float]


@dataclass(frozen=True)
class SweepRecord:
    """A sweep, finished or not.

    Attributes:
        folder: Of the sweep.
        monitor: Logged name that trials are compared by.
        higher_is_better: Direction of the monitor.
        keys: That trials change.
        trials: In the order in which they began.
        wanted: Number of trials that the sweep is to have.
    """

    folder: Path
    monitor: str
    higher_is_better: bool
    keys: Sequence[SweptKey]
    trials: Sequence[TrialRecord]
    wanted: int

    @cached_property
    def ranked(self) -> list[TrialRecord]:
        """The trials: finished ones first, the best of them on top; those without a figure last."""
        sign = -1 if self.higher_is_better else 1
        return sorted(
            self.trials,
            key=lambda trial: (
                trial.state != "finished",
                trial.figure is None,
                sign * (trial.figure or 0.0),
            ),
        )

    @property
    def best(self) -> TrialRecord | None:
        """The finished trial with the best figure; None before one is finished."""
        finished = [trial for trial in self.ranked if trial.state == "finished"]
        return finished[0] if finished else None


def value_text(value: Any) -> str:
    """Write a value as it is typed: 0.0003, 16, true, null.

    Args:
        value: A number, text, truth value or None.
    """
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def monitor_text(monitor: str, figure: float | None) -> str:
    """Write a monitored figure as its metric prints it.

    Args:
        monitor: Its logged name, e.g. val/relaxed_accuracy.
        figure: Its value; None shows "-".
    """
    name = monitor.removeprefix("val/")
    return known_figure(name, {} if figure is None else {name: figure})


def short_names(keys: Sequence[str]) -> list[str]:
    """Shorten dotted keys to their last parts, as many as it takes to tell them apart.

    Args:
        keys: All different.

    Example:
        >>> short_names(["model.lr", "model.parts.aligner.rank", "model.parts.lm_head.rank"])
        ['lr', 'aligner.rank', 'lm_head.rank']
    """
    names = []
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            ending = parts[-count:]
            if sum(other.split(".")[-count:] == ending for other in keys) == 1:
                break
        names.append(".".join(ending))
    return names
