"""The parser of recipes, whose errors name the nearest key."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace

import dsvl_tune.datamodules
from dsvl_tune.core.class_path import import_class
from dsvl_tune.core.errors import UserError, nearest_name, unknown_name
from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.renamed_keys import rename_keys, renamed_text
from dsvl_tune.recipe.help import HelpFormatter
from dsvl_tune.recipe.keys import add_recipe_keys
from dsvl_tune.recipe.messages import plain_types
from dsvl_tune.training.module import FinetuneModule

DATA_MODULES: list[type] = [
    getattr(dsvl_tune.datamodules, name) for name in dsvl_tune.datamodules.__all__
]
"""All are imported here: jsonargparse knows the bare names of imported classes only."""


class RecipeParser(ArgumentParser):
    """Reports errors as one message with the nearest key, and accepts old keys.

    jsonargparse makes parsers of this class for the keys of a data module, too.
    """

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Parse the text of a recipe, after replacing keys that were renamed."""
        try:
            settings = yaml.safe_load(content)
        except yaml.YAMLError:  # reported with its place below
            settings = None
        if isinstance(settings, dict):
            settings, renamed = rename_keys(settings)
            if renamed:
                print(renamed_text(renamed), file=sys.stderr)
                content = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        return super().parse_string(content, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a `UserError` that says what to do."""
        raise UserError(self._explain(message)) from ex

    def _explain(self, message: str) -> str:
        """Rewrite a message of jsonargparse for users."""
        if re.search(r"arguments are required: data$", message):
            return (
                "no data module is named. Give a recipe that names one, --config FILE or a shipped "
                "one by its name (e.g. --config charts_lora), or --data CLASS."
            )
        name = re.search(r"Expected a dot import path string: (\w+)", message)
        if name and nearest_name(name[1], dsvl_tune.datamodules.__all__, cutoff=0.8):
            return str(unknown_name("data module", name[1], dsvl_tune.datamodules.__all__))
        unknown = re.fullmatch(r"Option '([\w.]+)' is not accepted", message)
        if unknown:
            # The parser of a data module's keys has a group named after the class.
            for data_module in DATA_MODULES:
                if data_module.__name__ in (self.groups or ()):
                    return unknown_data_key(data_module, unknown[1], self._key_names())
            if unknown[1] in ("lr", "weight_decay"):
                return f"Option {unknown[1]!r} is not accepted: set model.{unknown[1]} instead."
        text = _without_noise(message)
        return f"{text}{'' if text.endswith('?') else '.'}{self._hint(message)}"

    def _hint(self, message: str) -> str:
        """Name the nearest key of a message about an unknown one; empty for other messages."""
        unknown = re.search(r"(?:option|arguments:|Option) ['\"]?(?:--)?([\w.]+)", message)
        if unknown is None or "Did you mean" in message:
            return ""
        near = nearest_name(unknown[1], self._key_names(), cutoff=0.8)
        near = near or nearest_name(unknown[1].split(".")[-1], _class_keys())
        return f" Did you mean {near!r}?" if near else " --print_config shows every key."

    def _key_names(self) -> list[str]:
        """List the dotted keys of this parser."""
        return [action.dest for action in self._actions]


def recipe_parser(
    command: str = "fit", description: str = "", model_class: str | None = None
) -> RecipeParser:
    """Make a parser with all keys of a recipe.

    Args:
        command: Command whose help it prints.
        description: First part of that help.
        model_class: Import path of the model's class; None for `FinetuneModule`.

    Raises:
        UserError: There is no such class.
    """
    parser = RecipeParser(
        prog=f"dsvl-tune {command}",
        usage=f"dsvl-tune {command} --config RECIPE [--KEY VALUE ...]",
        description=description,
        formatter_class=HelpFormatter,
    )
    if model_class is None:
        add_recipe_keys(parser)
    else:
        add_recipe_keys(parser, import_class(model_class, "model_class", FinetuneModule))
    return parser


def unknown_data_key(data_module: type, key: str, known: list[str]) -> str:
    """Write the message for a key that a data module does not have.

    The hint names its nearest key, else the most general data module with that key.

    Args:
        data_module: Class of the data module.
        key: The key that was given.
        known: Keys of the data module.
    """
    near = nearest_name(key, known, cutoff=0.8)
    owners = [owner for owner in DATA_MODULES if key in inspect.signature(owner).parameters]
    if near:
        hint = f"Did you mean {near!r}?"
    elif owners:
        owner = min(owners, key=lambda candidate: len(candidate.mro())).__name__
        hint = f"{owner} has it: give --data dsvl_tune.datamodules.{owner} before its keys."
    else:
        hint = f"--data.help {data_module.__name__} shows its keys."
    return f"{data_module.__name__} has no key {key!r}. {hint}"


def _without_noise(message: str) -> str:
    """Name the option, and remove what jsonargparse adds about types that it tried in vain."""
    noise = r"does not validate|subtypes:|errors:|(- )?expected a <class 'nonetype'>|given value"
    lines = []
    for line in message.splitlines():
        text = line.strip(" -")
        if text and not re.match(rf"\s*(- )?({noise})", line.lower()):
            lines.append(text)
    text = plain_types(" ".join(lines).rstrip("."))
    return re.sub(r'^Parser key "([\w.]+)":', r"--\1:", text)


def _class_keys() -> list[str]:
    """List the keys that a parser only knows as values: of model parts and of data modules."""
    names: list[str] = []
    for owner in (PartPlan, *DATA_MODULES):
        names += inspect.signature(owner).parameters
    return names
