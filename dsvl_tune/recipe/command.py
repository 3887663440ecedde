"""The command line of a command that takes a recipe: its help, or the parsed recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from dsvl_tune.core.quick_imports import quick_imports
from dsvl_tune.recipe.help import AddOptions, command_help, data_help
from dsvl_tune.recipe.run_keys import find_recipes, named_model_class
from dsvl_tune.recipe.signatures import data_constructors
from dsvl_tune.recipe.yaml_file import load_yaml

if TYPE_CHECKING:
    from dsvl_tune.recipe.recipe import Recipe


def no_options(parser: ArgumentParser) -> None:
    """Add nothing: the command takes a recipe alone."""


def parse_recipe(
    command: str,
    description: str,
    arguments: list[str],
    add_options: AddOptions = no_options,
) -> Recipe:
    """Parse the arguments of a command that takes a recipe, or print its help and exit.

    Args:
        command: Name of the command.
        description: First part of its help.
        arguments: Its arguments; shipped recipes may be given by name.
        add_options: Adds the command's own options to a parser.

    Raises:
        UserError: An unknown key or recipe, or a value that its key does not take.
        SystemExit: Help was printed.
    """
    if "-h" in arguments or "--help" in arguments:
        print(command_help(command, description, add_options), end="")
        sys.exit(0)
    if "--data.help" in arguments:
        arguments = _with_class_to_explain(command, arguments)

    with quick_imports():
        from dsvl_tune.recipe.parser import recipe_parser
        from dsvl_tune.recipe.recipe import Recipe

    arguments = find_recipes(arguments)
    parser = recipe_parser(command, description, named_model_class(arguments))
    add_options(parser)
    return Recipe.parse(parser, arguments)


def _with_class_to_explain(command: str, arguments: list[str]) -> list[str]:
    """Print the keys of a data module of this package and exit, or name the class to explain.

    Args:
        command: Name of the command.
        arguments: Its arguments, with `--data.help` and perhaps a class.

    Returns:
        The arguments for a parser that imports the class: one of the user's own.
    """
    place = arguments.index("--data.help")
    following = arguments[place + 1 : place + 2]
    is_named = bool(following) and not following[0].startswith("-")
    others = arguments[:place] + arguments[place + 1 + is_named :]
    name = following[0] if is_named else _data_class(find_recipes(others))
    shipped = data_constructors()
    short = name.removeprefix("dsvl_tune.datamodules.")
    if short in shipped:
        print(data_help(shipped[short], command), end="")
        sys.exit(0)
    return ["--data.help", name]


def _data_class(arguments: list[str]) -> str:
    """Find the data module that a command line names, by `--data` or in its last recipe."""
    name = "ConversationDataModule"
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, own = option.partition("=")
        value = own if equals else value
        if option in ("--config", "-c"):
            data = load_yaml(Path(value)).get("data")
            if isinstance(data, dict):
                name = str(data.get("class_path", name))
        elif option in ("--data", "--data.class_path"):
            name = value
    return name
