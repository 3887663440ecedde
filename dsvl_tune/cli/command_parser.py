"""The parser of commands that are a typed function: errors as one message with the nearest option."""

from __future__ import annotations

import re
from typing import NoReturn

from jsonargparse import ArgumentParser

from dsvl_tune.core.errors import UserError, nearest_name


class CommandParser(ArgumentParser):
    """Errors as one message with the nearest option, without the usage text in front."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        near = nearest_name(unknown[1], options) if unknown else None
        hint = f"Did you mean {near}?" if near else f"See {self.prog} --help."
        raise UserError(f"{' '.join(message.split()).rstrip('.')}. {hint}") from ex
