"""The figure that picks the best checkpoint: its name, its direction, and that it is logged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping

from dsvl_tune.core.errors import UserError
from dsvl_tune.evaluation.held_out_sets import set_prefix
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.evaluation.metrics.token_scores import TOKEN_METRICS
from dsvl_tune.evaluation.scoring import aggregate_scores, reference_answers

NO_MONITOR = "last"
"""Value of `monitor` that keeps the last step instead of the best one."""
LOGGED_LOSSES = ("val/loss", *(f"val/{metric.name}" for metric in TOKEN_METRICS))
"""Logged of the references of the validation rows, whatever the metrics are."""


def chosen_monitor(monitor: str | None, metrics: Sequence[Metric]) -> str:
    """The monitored name: the given one, else the data's first metric, else the loss."""
    if monitor is not None:
        return monitor
    return f"val/{metrics[0].name}" if metrics else "val/loss"


def monitor_mode(monitor: str, metrics: Sequence[Metric]) -> Literal["min", "max"]:
    """Direction in which a logged figure is better.

    A metric says so itself, for its question types too; of other names, those with "loss" in
    them are minimized and the rest maximized.

    Args:
        monitor: logged name, such as val/loss or val/relaxed_accuracy/count.
        metrics: of all held-out sets.
    """
    return known_mode(monitor, metrics) or "max"


def known_mode(monitor: str, metrics: Sequence[Metric]) -> Literal["min", "max"] | None:
    """Direction of a figure of a metric or of a loss; None of any other name.

    Args:
        monitor: logged name.
        metrics: of all held-out sets.
    """
    if monitor.startswith(("train/loss", "val/loss")):
        return "min"
    for metric in metrics:
        for part in monitor.split("/"):
            is_better_higher = metric.is_better_higher(part)
            if is_better_higher is not None:
                return "max" if is_better_higher else "min"
    return "min" if "loss" in monitor else None


def check_early_stopping(callbacks: Iterable[L.Callback], metrics: Sequence[Metric]) -> None:
    """Raise if Lightning's EarlyStopping waits for a figure to get worse.

    Its `mode` is "min" unless it is given, which stops a run whose accuracy rises.

    Args:
        callbacks: of the recipe.
        metrics: of all held-out sets.

    Raises:
        UserError: names the figure and the mode that it takes.
    """
    for callback in callbacks:
        if isinstance(callback, EarlyStopping):
            mode = known_mode(callback.monitor, metrics)
            if mode is not None and callback.mode != mode:
                better = "higher" if mode == "max" else "lower"
                raise UserError(
                    f"trainer.callbacks: EarlyStopping(monitor={callback.monitor}) has mode "
                    f"{callback.mode}, but {better} is better there. Set mode: {mode}."
                )


def check_monitor(monitor: str, data: Any) -> None:
    """Raise before training if nothing will be logged under the monitored name.

    What an objective logs is known only once it is logged, see `MonitorCheck`.

    Args:
        monitor: logged name, or "last".
        data: a data module that is set up.

    Raises:
        UserError: the message lists the names.
    """
    known = [*LOGGED_LOSSES, *(f"val/{metric.name}" for metric in data.metrics)]
    if monitor in (*known, NO_MONITOR) or monitor.startswith(("train/", "val/loss_", "val/loss/")):
        return
    logged = [*LOGGED_LOSSES, *(f"val/{name}" for name in possible_figures(data))]
    if monitor not in logged:
        raise unknown_monitor(monitor, logged)


def possible_figures(data: Any) -> list[str]:
    """Names of the figures that validations give, below `val/`.

    Args:
        data: a data module that is set up.
    """
    names: list[str] = []
    for name, held_out in data.validation_sets.items():
        if held_out.text is not None:
            figures = [metric.name for metric in held_out.metrics]
        else:
            figures = [*aggregate_scores(reference_answers(held_out.rows), held_out.metrics)]
        names += [set_prefix(name) + figure for figure in figures]
    return names


class MonitorCheck(L.Callback):
    """Raises after the first validation if nothing is logged under the monitored name.

    Lightning's own check comes at the second one.

    Args:
        monitor: logged name.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor not in trainer.callback_metrics:
            raise unknown_monitor(self.monitor, trainer.callback_metrics)


def unknown_monitor(monitor: str, logged: Iterable[str]) -> UserError:
    """The error for a monitored name that is not logged."""
    return UserError(
        f"--monitor {monitor}: nothing is logged under this name. "
        f"Expected one of {', '.join(logged)}, or {NO_MONITOR} for the last step."
    )
