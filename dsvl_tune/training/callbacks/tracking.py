"""What trackers get besides the logged steps: recipe, held-out figures, and samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from dsvl_tune.evaluation.held_out_sets import SetTables
from dsvl_tune.evaluation.scoring import set_figures, with_scores
from dsvl_tune.evaluation.statistics import intervals
from dsvl_tune.training.callbacks.heldout_evaluation import HeldOutEvaluation
from dsvl_tune.training.run.metrics_file import MetricsFile
from dsvl_tune.training.trackers.run_tensorboard import RunTensorBoard
from dsvl_tune.training.trackers.samples import Sample, log_samples, picture_of, shown_answers

VALIDATION = "validation"
"""Name of the rows that are answered at every validation, and of the set of their answers."""


class Tracking(L.Callback):
    """Tells the trackers the recipe, the figures before and after, and answers at validations.

    `metrics.csv` gets none of it: the run folder has files for each.

    Args:
        held_out: measures the figures before and after training.
        recipe: full settings of the run.
    """

    def __init__(self, held_out: HeldOutEvaluation, recipe: Mapping[str, Any]) -> None:
        self.held_out = held_out
        self.recipe = recipe
        self.pictures_logged = False
        self._pictures: dict[int, Image.Image | None] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"pictures_logged": self.pictures_logged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.pictures_logged = state_dict["pictures_logged"]

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the recipe, and the figures before training."""
        for logger in trainer.loggers:
            if isinstance(logger, RunTensorBoard):
                logger.resume(trainer.global_step)
        recipe = dict(flat_recipe(self.recipe))
        sets = trainer.datamodule.final_sets  # type: ignore[attr-defined]
        metrics = {name: held_out.metrics for name, held_out in sets.items()}
        figures = tracked_figures(self.held_out.tables_before(metrics))
        for logger in trackers(trainer):
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(recipe)
                logger.log_metrics(figures, 0)
            elif not trainer.global_step:  # its files hold them when the run resumes
                logger.log_hyperparams(recipe, figures, 0)

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the figures after training."""
        figures = tracked_figures(self.held_out.tables)
        for logger in trackers(trainer):
            logger.log_metrics(figures, trainer.global_step)
            logger.save()

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the answers to the same few validation questions."""
        loggers = trackers(trainer)
        tables: Any = pl_module.tables
        scored = tables.get(VALIDATION)
        if trainer.sanity_checking or not loggers or not scored:
            return
        answers = shown_answers(with_scores(scored[0].answers, scored))
        questions = trainer.datamodule.rows(VALIDATION).flattened()  # type: ignore[attr-defined]
        for answer in answers:
            if answer.number not in self._pictures:
                self._pictures[answer.number] = picture_of(questions[answer.number])
        samples = [Sample(answer, self._pictures[answer.number]) for answer in answers]
        step = trainer.fit_loop.epoch_loop._batches_that_stepped  # as Lightning logs the figures
        log_samples(loggers, samples, step, pictures=not self.pictures_logged)
        self.pictures_logged = True


def tracked_figures(tables: SetTables) -> dict[str, float]:
    """The figures of held-out sets with their intervals, as trackers name them.

    Args:
        tables: scores of each set, by its name.

    Returns:
        By name: SET/FIGURE, SET_low/FIGURE and SET_high/FIGURE.
    """
    figures: dict[str, float] = {}
    for name, of_set in tables.items():
        figures |= {f"{name}/{figure}": value for figure, value in set_figures(of_set).items()}
        for figure, (low, high) in intervals(of_set).items():
            figures |= {f"{name}_low/{figure}": low, f"{name}_high/{figure}": high}
    return figures


def trackers(trainer: L.Trainer) -> list[Logger]:
    """The loggers of a run but for its `metrics.csv`."""
    return [logger for logger in trainer.loggers if not isinstance(logger, MetricsFile)]


def flat_recipe(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a recipe by dotted key, as on a command line; lists and null as text.

    Args:
        settings: nested, as YAML holds them.
        key: of this section; "" for the whole recipe.
    """
    if isinstance(settings, Mapping) and settings:
        for name, value in settings.items():
            inner = key if name == "init_args" else f"{key}.{name}".lstrip(".")
            yield from flat_recipe(value, inner)
    else:
        is_plain = isinstance(settings, (bool, int, float, str))
        yield key, settings if is_plain else str(settings)
