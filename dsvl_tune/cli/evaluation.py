"""What validate, test and predict have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning as L

from dsvl_tune.recipe.parser import RecipeParser, recipe_parser
from dsvl_tune.recipe.recipe import Recipe
from dsvl_tune.training.run.error_messages import keyboard_interrupts
from dsvl_tune.training.run.folder import checkpoint_to_evaluate, run_of
from dsvl_tune.training.run.quiet import quiet_lightning
from dsvl_tune.training.run.trainer import evaluation_trainer


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


def evaluation_parser(command: str, description: str) -> RecipeParser:
    """Make the parser of a command that evaluates.

    Args:
        command: Its name.
        description: First part of its help.
    """
    parser = recipe_parser(command, description)
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help="run checkpoint to evaluate: best, last or a file",
    )
    return parser


@contextmanager
def evaluation_run(recipe: Recipe) -> Iterator[EvaluationRun]:
    """Find the run checkpoint to evaluate, and make a trainer for the block.

    Args:
        recipe: The parsed recipe.

    Raises:
        UserError: There is no such run checkpoint.
    """
    folder = run_of(recipe.config_file, recipe.first_run_folder)
    checkpoint = checkpoint_to_evaluate(recipe.config.ckpt_path, folder, recipe.first_run_folder)
    L.seed_everything(recipe.config.seed_everything, workers=True, verbose=False)
    with quiet_lightning(), keyboard_interrupts():
        yield EvaluationRun(evaluation_trainer(recipe.trainer), folder, checkpoint)
