"""The keys of a recipe, and the file of a recipe that is given by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import lightning as L
from jsonargparse import ActionConfigFile, ArgumentParser
from jsonargparse.typing import PositiveFloat, PositiveInt

from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.datamodules.base import ConversationDataModule
from dsvl_tune.recipe.shipped import shipped_recipes
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.run.trainer import TRAINER_DEFAULTS

RUN_KEYS = (
    "run_dir",
    "run_name",
    "monitor",
    "keep_best",
    "resume",
    "checkpoint_every_steps",
    "time_limit_s",
)
"""Keys of a recipe that are arguments of `dsvl_tune.fit`."""

RECIPE_KEYS = ("seed_everything", "trainer", "model", "data", *RUN_KEYS)
"""All top-level keys of a recipe."""


def add_recipe_keys(parser: ArgumentParser) -> None:
    """Add every key of a recipe to a parser.

    Args:
        parser: Parser of a command; it may have options of its own besides.
    """
    parser.add_argument(
        "-c",
        "--config",
        action=ActionConfigFile,
        help="recipe: a YAML file or the name of a shipped one; may be repeated",
    )
    parser.add_argument(
        "--seed_everything",
        type=int,
        default=1,
        help="seed of new weights, dropout and the order of the rows",
    )
    parser.add_class_arguments(
        L.Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True
    )
    parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})
    parser.add_class_arguments(FinetuneModule, "model", fail_untyped=False, sub_configs=True)
    parser.add_subclass_arguments(ConversationDataModule, "data", fail_untyped=False, required=True)
    _add_run_keys(parser)
    parser.link_arguments("model.checkpoint", "data.init_args.checkpoint")
    parser.link_arguments("seed_everything", "data.init_args.seed")


def _add_run_keys(parser: ArgumentParser) -> None:
    """Add the keys that say how a run is run: folder, run checkpoints, resume, limits."""
    parser.add_argument("--run_dir", type=str, default="runs", help="folder of all run folders")
    parser.add_argument(
        "--run_name",
        type=str | None,
        default=None,
        help="name of the run (default: the recipe's name)",
    )
    parser.add_argument(
        "--monitor",
        type=str | None,
        default=None,
        help="logged name that selects the best run checkpoint, e.g. val/loss; last keeps the "
        "final step (default: the first of data.metrics)",
    )
    parser.add_argument(
        "--keep_best", type=PositiveInt, default=1, help="number of best run checkpoints to keep"
    )
    parser.add_argument(
        "--resume",
        type=Literal["auto", "never"],
        default="auto",
        help="auto resumes the newest unfinished run with the same name and recipe",
    )
    parser.add_argument(
        "--checkpoint_every_steps",
        type=PositiveInt | None,
        default=None,
        help="optimizer steps between saves of the last run checkpoint, besides validations",
    )
    parser.add_argument(
        "--time_limit_s",
        type=PositiveFloat | None,
        default=None,
        help="seconds after which this start saves and exits with 75; leave time to save",
    )


def find_recipes(arguments: list[str]) -> list[str]:
    """Replace names of shipped recipes by their files on a command line.

    Args:
        arguments: Arguments of a command.

    Raises:
        UserError: A recipe is neither a file nor shipped.
    """
    resolved = []
    previous = ""
    for argument in arguments:
        if previous in ("--config", "-c"):
            resolved.append(recipe_file(argument))
        elif argument.startswith("--config="):
            resolved.append("--config=" + recipe_file(argument.removeprefix("--config=")))
        else:
            resolved.append(argument)
        previous = argument
    return resolved


def recipe_file(name: str) -> str:
    """Find the file of a recipe.

    Args:
        name: A file, or the name of a shipped recipe.

    Raises:
        UserError: It is neither.
    """
    if Path(name).is_file():
        return name
    shipped = shipped_recipes()
    stem = Path(name).name.removesuffix(".yaml")
    if stem not in shipped:
        raise UserError(f"--config {name}: no such file; {unknown_name('recipe', stem, shipped)}")
    return str(shipped[stem])
