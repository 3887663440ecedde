"""The figure that picks the best checkpoint: its name, its direction, and that it is logged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import lightning as L

from dsvl_tune.core.errors import UserError
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.evaluation.scoring import aggregate_scores, reference_answers

NO_MONITOR = "last"
"""Value of `monitor` that keeps the last step instead of the best one."""


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
        metrics: of the data module.
    """
    for metric in metrics:
        for part in monitor.split("/"):
            is_better_higher = metric.is_better_higher(part)
            if is_better_higher is not None:
                return "max" if is_better_higher else "min"
    return "min" if "loss" in monitor else "max"


def check_monitor(monitor: str, data: Any) -> None:
    """Raise before training if nothing will be logged under the monitored name.

    What an objective logs below `train/` is known only once it is logged, see `MonitorCheck`.

    Args:
        monitor: logged name, or "last".
        data: a data module that is set up.

    Raises:
        UserError: the message lists the names.
    """
    known = ["val/loss", *(f"val/{metric.name}" for metric in data.metrics)]
    if monitor in (*known, NO_MONITOR) or monitor.startswith("train/"):
        return
    perfect = reference_answers(data.rows("validation"))
    logged = ["val/loss", *(f"val/{name}" for name in aggregate_scores(perfect, data.metrics))]
    if monitor not in logged:
        raise unknown_monitor(monitor, logged)


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
