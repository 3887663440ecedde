"""Errors that end a command with one message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can fix: printed as one message with exit code 2, without a traceback.

    The message says where, what is wrong, what was expected and what to do.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader worker passes its exception on as text that contains the worker's traceback;
        # what the user should read follows the last mention of this class.
        super().__init__(message.rsplit("errors.UserError: ", 1)[-1].strip())


def unknown_name(what: str, given: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest known name.

    Args:
        what: kind of the name or its key, e.g. "model part" or "trainer.strategy".
        given: the unknown name.
        known: all names that exist; listed where none is near.
    """
    names = list(known)
    nearest = difflib.get_close_matches(given, names, n=1)
    hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Known: {', '.join(names)}."
    return UserError(f"unknown {what} {given!r}. {hint}")
