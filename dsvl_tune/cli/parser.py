"""The parser of commands that are a typed function and take no recipe."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from dsvl_tune.core.errors import UserError, nearest_name
from dsvl_tune.recipe.bounds import check_numbers
from dsvl_tune.recipe.help import HelpFormatter
from dsvl_tune.recipe.messages import plain_types


class CommandParser(ArgumentParser):
    """Reports errors as one message with the nearest option, and checks numbers."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Parse the options and compare their numbers with the table of bounds.

        Raises:
            UserError: An unknown option, or a value that its option does not take.
        """
        options = super().parse_args(*args, **kwargs)
        check_numbers(options.as_dict(), prefix=f"{self.prog.split()[-1]}.")
        return options

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a `UserError` that says what to do."""
        options = [option for action in self._actions for option in action.option_strings]
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        near = nearest_name(unknown[1], options) if unknown else None
        hint = f"Did you mean {near}?" if near else f"See {self.prog} --help."
        text = re.sub(r'^Parser key "([\w.]+)":', r"--\1:", plain_types(" ".join(message.split())))
        raise UserError(f"{text.rstrip('.')}. {hint}") from ex


def command_parser(
    name: str,
    function: Callable[..., None],
    *,
    as_positional: bool = True,
    skip: set[str | int] | None = None,
) -> CommandParser:
    """Make a parser from the signature and the docstring of a function.

    Args:
        name: Name of the command.
        function: Function that the command calls; the help is its docstring.
        as_positional: Whether its parameters without a default are positional.
        skip: Parameters that the command adds itself.
    """
    description = str(inspect.getdoc(function)).partition("\n\nArgs:")[0]
    parser = CommandParser(
        prog=f"dsvl-tune {name}", description=description, formatter_class=HelpFormatter
    )
    parser.add_function_arguments(function, as_positional=as_positional, skip=skip)
    return parser
