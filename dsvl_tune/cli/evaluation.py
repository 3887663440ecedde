"""What validate, test and predict have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

if TYPE_CHECKING:
    import lightning as L

    from dsvl_tune.recipe.recipe import Recipe
    from dsvl_tune.training.module import FinetuneModule


@dataclass(frozen=True)
class EvaluationRun:
    """What evaluates a recipe's data.

    Attributes:
        trainer: Lightning's trainer.
        folder: Folder of the run that the recipe is of, if there is one.
        checkpoint: Run checkpoint to evaluate; None for the base checkpoint as it is.
    """

    trainer: L.Trainer
    folder: Path | None
    checkpoint: Path | None


def add_checkpoint_option(parser: ArgumentParser) -> None:
    """Add the option that names what is evaluated."""
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help="run checkpoint to evaluate: best, last or a file",
    )


@contextmanager
def evaluation_run(recipe: Recipe) -> Iterator[EvaluationRun]:
    """Find the run checkpoint to evaluate, and make a trainer for the block.

    Args:
        recipe: The parsed recipe.

    Raises:
        UserError: There is no such run checkpoint.
    """
    import lightning as L

    from dsvl_tune.training.run.error_messages import explained_errors, keyboard_interrupts
    from dsvl_tune.training.run.folder import checkpoint_to_evaluate, run_of
    from dsvl_tune.training.run.quiet import quiet_lightning
    from dsvl_tune.training.run.threads import use_free_cores
    from dsvl_tune.training.run.trainer import configuration_errors, evaluation_trainer
    from dsvl_tune.training.run.trainer_keys import check_trainer

    check_trainer(recipe.trainer, recipe.data.num_workers)
    folder = run_of(recipe.config_file, recipe.first_run_folder)
    checkpoint = checkpoint_to_evaluate(recipe.config.ckpt_path, folder, recipe.first_run_folder)
    L.seed_everything(recipe.config.seed_everything, workers=True, verbose=False)
    with quiet_lightning(), keyboard_interrupts(), configuration_errors():
        trainer = evaluation_trainer(recipe.trainer)
        use_free_cores(trainer.num_devices)
        with explained_errors(trainer, run_folder=None):
            yield EvaluationRun(trainer, folder, checkpoint)


def print_evaluation(trainer: L.Trainer, model: FinetuneModule) -> None:
    """Print what a finished `validate` or `test` has measured, with 95 % intervals.

    Args:
        trainer: That measured it.
        model: That was measured.
    """
    from dsvl_tune.evaluation.run_summary import evaluation_text

    if trainer.is_global_zero:
        print(evaluation_text(model.tables, model.means), flush=True)
