"""The parser of commands that are a typed function and take no recipe."""

from __future__ import annotations

import inspect
import re
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from dsvl_tune.core.errors import UserError, nearest_name


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions."""


class CommandParser(ArgumentParser):
    """Reports errors as one message with the nearest option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a `UserError` that says what to do."""
        options = [option for action in self._actions for option in action.option_strings]
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        near = nearest_name(unknown[1], options) if unknown else None
        hint = f"Did you mean {near}?" if near else f"See {self.prog} --help."
        text = re.sub(r'^Parser key "([\w.]+)":', r"--\1:", " ".join(message.split()))
        raise UserError(f"{text.rstrip('.')}. {hint}") from ex


def command_parser(
    function: Callable[..., None],
    *,
    as_positional: bool = True,
    skip: set[str | int] | None = None,
) -> CommandParser:
    """Make a parser from the signature and the docstring of a function.

    Args:
        function: Function that the command calls; the help is its docstring.
        as_positional: Whether its parameters without a default are positional.
        skip: Parameters that the command adds itself.
    """
    description = str(inspect.getdoc(function)).partition("\n\nArgs:")[0]
    name = function.__name__.replace("_", "-")
    parser = CommandParser(
        prog=f"dsvl-tune {name}", description=description, formatter_class=HelpFormatter
    )
    parser.add_function_arguments(function, as_positional=as_positional, skip=skip)
    return parser
