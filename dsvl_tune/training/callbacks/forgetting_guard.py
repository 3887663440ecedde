"""Watches the held-out sets besides the domain during training: what the model forgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from dsvl_tune.core.errors import UserError
from dsvl_tune.evaluation.figures_table import figure_text, is_percent
from dsvl_tune.evaluation.held_out_sets import MAIN_SETS, SetTables, set_prefix, sets_figures
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.evaluation.run_summary import forgotten_figures
from dsvl_tune.evaluation.scoring import score_tables
from dsvl_tune.evaluation.statistics import changes
from dsvl_tune.training.callbacks.heldout_evaluation import HeldOutEvaluation
from dsvl_tune.training.callbacks.monitor_check import NO_MONITOR, possible_figures
from dsvl_tune.training.messages import print_above_bars
from dsvl_tune.training.module import FinetuneModule

Floor = Mapping[str, float]
"""Logged name of a figure of a held-out set -> how much worse than the base model it may be: points
of a figure in percent, else the figure's own unit."""


class ForgettingGuard(L.Callback):
    """Compares the held-out sets with the base model after every validation.

    It warns when a figure got worse beyond what chance explains, and finds out whether the floor is
    kept. Both compare the same questions: those that the validation answered.

    Args:
        evaluation: has the answers of the base model.
        floor: what a checkpoint must keep to be called the best.

    Attributes:
        is_kept: whether the newest validation kept the floor.
        was_kept: whether any validation did.
    """

    def __init__(self, evaluation: HeldOutEvaluation, floor: Floor) -> None:
        self.evaluation = evaluation
        self.floor = floor
        self.is_kept = True
        self.was_kept = False

    def state_dict(self) -> dict[str, Any]:
        return {"was_kept": self.was_kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.was_kept = state_dict["was_kept"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, FinetuneModule)
        now = {name: of_set for name, of_set in pl_module.tables.items() if name not in MAIN_SETS}
        metrics = {name: pl_module.set_metrics[name] for name in now}
        lines: list[str] = []
        is_kept = True
        if trainer.is_global_zero:
            before = self.tables_before(now, metrics)
            lines = got_worse(before, now)
            broken = broken_floors(self.floor, before, now)
            lines += broken
            is_kept = not broken
        self.is_kept = trainer.strategy.broadcast(is_kept)
        self.was_kept |= self.is_kept
        for line in lines:
            print_above_bars(f"step {trainer.global_step}: {line}")

    def tables_before(self, now: SetTables, metrics: Mapping[str, Sequence[Metric]]) -> SetTables:
        """The scores of the base model on the questions of a validation.

        Args:
            now: scores of the validation, by set.
            metrics: of each set.
        """
        tables: SetTables = {}
        for name, of_set in now.items():
            answers = self.evaluation.answers_before(name)
            numbers = sorted({answer.number for table in of_set for answer in table.answers})
            if answers is not None and all(number < len(answers) for number in numbers):
                asked = [answers[number] for number in numbers]
                tables[name] = score_tables(asked, metrics[name])
        return tables

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.floor and not self.was_kept:
            rank_zero_only(print)(
                f"warning: no validation kept the floor ({', '.join(self.floor)}), so the result "
                "is the last step. Mix rows of that kind into the training data "
                "(MixtureDataModule), train less, or allow more.",
                flush=True,
            )


class FloorCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint among the checkpoints that keep the floor.

    Args:
        guard: knows whether the newest validation kept the floor.
        **options: of `ModelCheckpoint`.
    """

    def __init__(self, guard: ForgettingGuard, **options: Any) -> None:
        super().__init__(**options)
        self.guard = guard

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Whether the newest checkpoint is among the best."""
        return self.guard.is_kept and super().check_monitor_top_k(trainer, current)


def got_worse(before: SetTables, now: SetTables) -> list[str]:
    """A line for each set that got worse beyond what chance explains.

    Args:
        before: scores of the base model, by set.
        now: scores of a validation on the same questions.
    """
    lines = []
    for name, tables in now.items():
        metrics = [table.metric for table in tables]
        found = changes(before.get(name, []), tables)
        lines += [
            f"{name} got worse than the base model: {text}"
            for text in forgotten_figures(found, metrics)
        ]
    return lines


def broken_floors(floor: Floor, before: SetTables, now: SetTables) -> list[str]:
    """A line for each figure that is below its floor.

    Args:
        floor: of the run.
        before: scores of the base model, by set.
        now: scores of a validation on the same questions.

    Raises:
        UserError: the answers of the base model to a set are gone.
    """
    was, found = sets_figures(before), sets_figures(now)
    metrics = [table.metric for of_set in now.values() for table in of_set]
    lines = []
    for logged, points in floor.items():
        name = logged.removeprefix("val/")
        if name not in was or name not in found:
            raise UserError(
                f"floor: {logged} cannot be compared with the base model: its answers in "
                "predictions/ are gone or are those to other questions. Start a new run with "
                "--resume never."
            )
        figure = name.partition("/")[2]
        percent = is_percent(figure, metrics)
        fall = (was[name] - found[name]) * (1 if _is_better_higher(figure, metrics) else -1)
        if fall * (100 if percent else 1) > points:
            lines.append(
                f"{logged} is {figure_text(found[name], percent=percent)}, more than {points:g} "
                f"{'points ' if percent else ''}worse than the base model's "
                f"{figure_text(was[name], percent=percent)}: not the best checkpoint"
            )
    return lines


def check_floor(floor: Floor, monitor: str, data: Any) -> None:
    """Raise if a figure of the floor is not one that validations compare with the base model.

    Args:
        floor: of the run.
        monitor: logged name that selects the best run checkpoint, or "last".
        data: a data module that is set up.

    Raises:
        UserError: the message lists the names.
    """
    if not floor:
        return
    if monitor == NO_MONITOR:
        raise UserError(
            f"floor: with monitor: {NO_MONITOR} no checkpoint is selected. Give another monitor, "
            "or leave floor out."
        )
    names = [f"val/{name}" for name in possible_figures(data)]
    sets = [f"val/{set_prefix(name)}" for name in data.held_out_sets]
    known = [name for name in names if name.startswith(tuple(sets))] if sets else []
    for name in floor:
        if name not in known:
            expected = ", ".join(known) or "a figure of data.heldout, and there is none"
            raise UserError(f"floor: {name}: no figure of a held-out set. Expected {expected}.")


def _is_better_higher(figure: str, metrics: Sequence[Metric]) -> bool:
    """Direction of a figure, by its name below a set."""
    for metric in metrics:
        higher = metric.is_better_higher(figure.split("/")[0])
        if higher is not None:
            return higher
    raise AssertionError(figure)
