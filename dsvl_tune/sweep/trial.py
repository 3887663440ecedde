"""One trial, in a process of its own: a run that reports each validation and may be pruned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L

from dsvl_tune import api
from dsvl_tune.recipe.recipe import Recipe
from dsvl_tune.sweep.definition import Sweep, read_definition
from dsvl_tune.sweep.folder import trial_name
from dsvl_tune.sweep.recipes import recipe_file
from dsvl_tune.sweep.study import live_trial, open_study
from dsvl_tune.training.distributed.rank_agreement import die_with, is_first
from dsvl_tune.training.run.folder import SUMMARY
from dsvl_tune.training.run.stop_request import RunStopped

if TYPE_CHECKING:
    from optuna import Trial

PRUNED = -1
"""Exit code of a run that was pruned; a process never ends with it."""


def run_trial(folder: Path, number: int) -> int:
    """Train by the recipe of a trial, or resume it, and record its figure in the study.

    Args:
        folder: Of the sweep.
        number: Of the trial, whose values were chosen.

    Returns:
        Exit code: that of the run; 0 for a trial that was pruned.
    """
    if is_first():
        die_with(os.getppid())
    sweep = read_definition(folder)
    if not (folder / trial_name(number) / SUMMARY).is_file():
        code = _fit(sweep, number)
        if code == PRUNED or not is_first():
            return 0
        if code:
            return code
    study = open_study(sweep)
    figures = study.get_trials()[number].intermediate_values.values()
    study.tell(number, (max if sweep.higher_is_better else min)(figures))
    return 0


def _fit(sweep: Sweep, number: int) -> int:
    """Train; return the exit code of the run."""
    recipe = Recipe.load(recipe_file(sweep.folder, number))
    own = recipe.trainer.get("callbacks") or []
    callbacks = [*(own if isinstance(own, list) else [own]), TrialReport(sweep, number)]
    run = api.fit(
        recipe.model,
        recipe.data,
        **recipe.run_options,
        settings=recipe.settings,
        **{**recipe.trainer, "callbacks": callbacks},
    )
    return run.exit_code


class TrialReport(L.Callback):
    """Reports the monitored figure of each validation, and stops a trial that is to be pruned.

    The run is left as one that was stopped: `fit` with its `config.yaml` would resume it.

    Args:
        sweep: The sweep.
        number: Of the trial.
    """

    def __init__(self, sweep: Sweep, number: int) -> None:
        self.sweep = sweep
        self.number = number
        self.trial: Trial | None = None
        self.is_pruned = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.trial = live_trial(open_study(self.sweep), self.number)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        is_pruned = False
        if self.trial is not None:
            figure = float(trainer.callback_metrics[self.sweep.monitor])
            is_pruned = self._report(self.trial, figure, trainer.global_step)
        self.is_pruned = trainer.strategy.broadcast(is_pruned)

    def _report(self, trial: Trial, figure: float, step: int) -> bool:
        """Report a figure, once for each step; return whether to prune the trial."""
        reported = trial.study.get_trials()[self.number].intermediate_values
        if step not in reported:  # a run that was killed after a validation repeats it
            trial.report(figure, step)
        return trial.should_prune()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        # Not right after the validation: the run checkpoints that belong to it are written first.
        if not self.is_pruned:
            return
        if self.trial is not None:
            from optuna.trial import TrialState

            self.trial.study.tell(self.number, state=TrialState.PRUNED)
            print(
                f"pruned: {self.sweep.monitor} is worse than the median of the trials before",
                flush=True,
            )
        raise RunStopped(PRUNED)
