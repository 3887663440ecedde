"""The keys of a recipe that are not a constructor's, and the recipes that come with the package.

Imports nothing heavy, so that help is fast.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ActionConfigFile, ArgumentParser

from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.recipe.shipped import shipped_recipes
from dsvl_tune.recipe.yaml_file import load_yaml

RUN_KEYS = (
    "run_dir",
    "run_name",
    "monitor",
    "keep_best",
    "floor",
    "resume",
    "checkpoint_every_steps",
    "time_limit_s",
)
"""Keys of a recipe that are arguments of `dsvl_tune.fit`."""

FACTORY_KEYS = ("optimizer", "lr_scheduler")
"""Keys of a recipe that name a class with its arguments; the model gets it as a factory."""

RECIPE_KEYS = (
    "seed_everything",
    "trainer",
    "model_class",
    "model",
    *FACTORY_KEYS,
    "data",
    *RUN_KEYS,
)
"""All top-level keys of a recipe."""


CONFIG_OPTIONS = ("--config", "-c")
"""Options that name a recipe."""

LINKED_KEYS = {
    "data.init_args.seed": "seed_everything",
    "data.seed": "seed_everything",
    "data.init_args.checkpoint": "model.checkpoint",
    "data.checkpoint": "model.checkpoint",
}
"""Key of a data module -> the key of the recipe that it follows."""

ADDED_KEYS = ("callbacks", "logger")
"""Keys of the Trainer whose values are added to a run; a second recipe must not replace them."""


def add_config_key(parser: ArgumentParser) -> None:
    """Add `--config`, which may be repeated, and `--print_config`."""
    parser.add_argument(
        "-c",
        "--config",
        action=ActionConfigFile,
        help="recipe: a YAML file or the name of a shipped one; may be repeated",
    )
    for action in parser._actions:
        if "--print_config" in action.option_strings:  # jsonargparse's has a backspace
            action.metavar = "[=flags]"


def add_run_keys(parser: ArgumentParser) -> None:
    """Add the keys that say how a run is run: seed, folder, run checkpoints, resume."""
    parser.add_argument(
        "--seed_everything",
        type=int,
        default=1,
        help="seed of new weights, dropout and the order of the rows",
    )
    parser.add_argument(
        "--model_class",
        type=str | None,
        default=None,
        help="import path of a subclass of FinetuneModule, whose arguments are keys of model too",
    )
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
        "--keep_best", type=int, default=1, help="number of best run checkpoints to keep"
    )
    parser.add_argument(
        "--floor",
        type=dict[str, float] | None,
        default=None,
        help="figures of held-out sets that a best run checkpoint must keep: logged name -> how "
        "much worse than the base model it may be, in points of a figure in percent, else in its "
        "own unit",
    )
    parser.add_argument(
        "--resume",
        type=Literal["auto", "never"],
        default="auto",
        help="auto resumes the newest unfinished run with the same name and recipe",
    )
    parser.add_argument(
        "--checkpoint_every_steps",
        type=int | None,
        default=None,
        help="optimizer steps between saves of the last run checkpoint, besides validations",
    )
    parser.add_argument(
        "--time_limit_s",
        type=float | None,
        default=None,
        help="seconds after which this start saves and exits with 75; leave time to save",
    )


def named_model_class(arguments: list[str]) -> str | None:
    """Find the class of the model that a command line names: the parser has its keys.

    Args:
        arguments: Arguments of a command, with the files of its recipes.

    Raises:
        UserError: A recipe cannot be used.
    """
    named = None
    for previous, argument in pairwise(["", *arguments]):
        option, equals, value = argument.partition("=")
        if equals and option in ("--model_class", *CONFIG_OPTIONS):
            previous, argument = option, value
        if previous == "--model_class":
            named = argument
        elif previous in CONFIG_OPTIONS:
            named = load_yaml(Path(argument)).get("model_class") or named
    return named


def find_recipes(arguments: list[str]) -> list[str]:
    """Replace names of shipped recipes by their files on a command line, and check these files.

    Args:
        arguments: Arguments of a command.

    Raises:
        UserError: A recipe is neither a file nor shipped, or cannot be used.
    """
    resolved = []
    files = []
    previous = ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option.removeprefix("--") in LINKED_KEYS:
            raise linked_key(option, LINKED_KEYS[option.removeprefix("--")])
        if previous in CONFIG_OPTIONS:
            option, equals, value = "", "", argument
        if previous in CONFIG_OPTIONS or (equals and option in CONFIG_OPTIONS):
            value = recipe_file(value)
            files.append(value)
            argument = f"{option}{equals}{value}"
            previous = ""
        else:
            previous = argument
        resolved.append(argument)
    check_recipes(files)
    return resolved


def check_recipes(files: list[str]) -> None:
    """Read recipes, and raise if one silently replaces what another adds to the Trainer.

    Args:
        files: Recipes of a command line, in order.

    Raises:
        UserError: A file is no recipe, two of them name callbacks or loggers, or one gives a key
            that follows another.
    """
    first: dict[str, str] = {}
    for file in files:
        settings = load_yaml(Path(file))
        check_linked_keys(file, settings)
        for key in ADDED_KEYS:
            value = _value(settings, f"trainer.{key}")
            if value and key in first:
                raise UserError(
                    f"trainer.{key}: {file} would replace those of {first[key]}. Write `{key}+:` "
                    f"in {file} to add to them, or {key}: [] in a recipe between them to drop them."
                )
            if value:
                first[key] = file
            elif value == []:
                first.pop(key, None)


def check_linked_keys(file: str, settings: dict[str, Any]) -> None:
    """Raise if a recipe sets a key that follows another to a value of its own.

    The `config.yaml` of a run has both keys, with the same value.
    """
    for linked, followed in LINKED_KEYS.items():
        own = _value(settings, linked)
        if own is not None and own != _value(settings, followed):
            raise linked_key(f"{file}: {linked}", followed)


def linked_key(where: str, followed: str) -> UserError:
    """Make the error for a key whose value follows that of another one."""
    return UserError(f"{where}: follows {followed}, and would be ignored. Set {followed} instead.")


def _value(settings: Any, key: str) -> Any:
    """Look up a dotted key in nested settings; None without it."""
    for name in key.split("."):
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings


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
