"""The help of commands that take a recipe, printed without importing torch or Lightning."""

from __future__ import annotations

import ast
from argparse import SUPPRESS, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from dsvl_tune.recipe.run_keys import FACTORY_KEYS, add_config_key, add_run_keys
from dsvl_tune.recipe.signatures import (
    Argument,
    Constructor,
    data_constructors,
    module_constructor,
    trainer_constructor,
)
from dsvl_tune.training.run.trainer_keys import TRAINER_DEFAULTS

AddOptions = Callable[[ArgumentParser], None]

USUAL_TRAINER_KEYS = (
    "max_steps",
    "max_epochs",
    "val_check_interval",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "precision",
    "accelerator",
    "devices",
    "log_every_n_steps",
)
"""Keys of Lightning's Trainer that the help shows; `--print_config` shows all others."""


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions."""


def command_help(command: str, description: str, add_options: AddOptions) -> str:
    """Write the help of a command that takes a recipe.

    Args:
        command: Its name.
        description: First part of the help.
        add_options: Adds the command's own options to a parser.
    """
    parser = ArgumentParser(
        prog=f"dsvl-tune {command}",
        usage=f"dsvl-tune {command} --config RECIPE [--KEY VALUE ...]",
        description=description,
        formatter_class=HelpFormatter,
    )
    add_config_key(parser)
    add_run_keys(parser)
    add_options(parser)
    trainer = trainer_constructor()
    _add_group(
        parser,
        "trainer: arguments of Lightning's Trainer, the usual ones; --print_config shows all",
        "trainer",
        [argument for argument in trainer.arguments if argument.name in USUAL_TRAINER_KEYS],
        TRAINER_DEFAULTS,
    )
    model = module_constructor()
    keys = [argument for argument in model.arguments if argument.name not in FACTORY_KEYS]
    _add_group(parser, f"model: {_lower(model.summary).rstrip('.')}", "model", keys)
    group = parser.add_argument_group("optimizer and schedule: classes by import path")
    for argument in model.arguments:
        if argument.name in FACTORY_KEYS:
            group.add_argument(
                f"--{argument.name}", metavar="CLASS", default=SUPPRESS, help=argument.help
            )
    group = parser.add_argument_group("data: what is trained on")
    group.add_argument("--data", metavar="CLASS", default=SUPPRESS, help=_data_help())
    group.add_argument(
        "--data.help",
        metavar="CLASS",
        default=SUPPRESS,
        help="show the keys of a data module; without CLASS, those of the recipe's",
    )
    return str(parser.format_help())


def data_help(constructor: Constructor, command: str) -> str:
    """Write the help of a data module's keys.

    Args:
        constructor: Of the data module.
        command: Command that asks.
    """
    parser = ArgumentParser(
        prog=f"dsvl-tune {command}",
        usage=f"dsvl-tune {command} --data {constructor.name} [--data.KEY VALUE ...]",
        description=f"{constructor.name}: {_lower(constructor.description)}",
        formatter_class=HelpFormatter,
        add_help=False,
    )
    _add_group(parser, "keys", "data", constructor.arguments)
    return str(parser.format_help())


def _add_group(
    parser: ArgumentParser,
    title: str,
    section: str,
    arguments: Any,
    defaults: dict[str, Any] | None = None,
) -> None:
    """Add a line for each argument of a constructor.

    Args:
        parser: Parser whose help is written.
        title: Of the group.
        section: Section of the recipe, the first part of its keys.
        arguments: Of the constructor.
        defaults: Defaults of a recipe that differ from the constructor's.
    """
    group = parser.add_argument_group(title)
    for argument in arguments:
        default = _default_text(argument, defaults or {})
        facts = f"(type: {argument.type}, {default})"
        group.add_argument(
            f"--{section}.{argument.name}",
            metavar=argument.name.upper(),
            default=SUPPRESS,
            help=f"{argument.help} {facts}".replace("%", "%%"),
        )


def _default_text(argument: Argument, defaults: dict[str, Any]) -> str:
    """Write the default of an argument as YAML has it."""
    if argument.name in defaults:
        return f"default: {_yaml_text(defaults[argument.name])}"
    if argument.default is None:
        return "required"
    try:
        value = ast.literal_eval(argument.default)
    except ValueError:  # a name, e.g. of a function
        return f"default: {argument.default}"
    return f"default: {_yaml_text(value)}"


def _yaml_text(value: Any) -> str:
    """Write a default as YAML has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_yaml_text(item) for item in value)}]"
    return str(value)


def _data_help() -> str:
    """List the package's data modules."""
    lines = [
        f"{name} ({_lower(constructor.summary).rstrip('.')})"
        for name, constructor in data_constructors().items()
        if name != "ConversationDataModule"
    ]
    known = "; ".join(lines)
    own = "the import path of a class of yours, e.g. mydata.MyData"
    return f"class of the data module: {known}; or {own}"


def _lower(text: str) -> str:
    """Begin a text with a small letter."""
    return text[:1].lower() + text[1:]
