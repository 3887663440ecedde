"""Errors that end a command with one message, and how messages name what is unknown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from dsvl_tune.core.terminal import escape, shorten

PREEMPTED = 75
"""Exit code of a run that the same command resumes: EX_TEMPFAIL in sysexits.h of BSD."""
MESSAGE_CHARACTERS = 2_000
"""Longest message: a screen of 80 columns and 25 lines."""
VALUE_CHARACTERS = 400
"""Longest value without a space in a message, e.g. a path."""


class UserError(Exception):
    """Invalid input or environment: reported as one message with exit code 2, without a traceback.

    The message says where the error is, what was found, what was expected and what to do. It is
    one line that fits a screen: values from outside are escaped, long ones lose their middle.

    Args:
        message: Text for the user.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader worker sends its exception as text that contains the worker's traceback. The
        # message for the user follows the last mention of this class.
        own = message.rsplit("errors.UserError: ", 1)[-1].strip()
        values = re.compile(rf"\S{{{VALUE_CHARACTERS + 1},}}")
        short = values.sub(lambda value: shorten(value[0], VALUE_CHARACTERS), escape(own))
        super().__init__(shorten(short, MESSAGE_CHARACTERS))


def nearest_name(given: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Find the known name that is most similar to a misspelled one, ignoring case.

    Args:
        given: The name that was given.
        known: Every name that is accepted.
        cutoff: Similarity that the nearest name must have at least, 0..1.

    Returns:
        The nearest name, or None if no name is similar enough.

    Example:
        >>> nearest_name("ft", ["fit", "merge"])
        'fit'
    """
    by_lower_case = {name.lower(): name for name in known}
    near = difflib.get_close_matches(given.lower(), by_lower_case, n=1, cutoff=cutoff)
    return by_lower_case[near[0]] if near else None


def unknown_name(what: str, given: str, known: Iterable[str]) -> UserError:
    """Make the error for an unknown name, with the nearest known name or all of them.

    Args:
        what: What the name stands for, e.g. "command" or "trainer.strategy".
        given: The name that was given.
        known: Every name that is accepted, in the order in which to list them.

    Returns:
        The error to raise; its text can also be part of a longer message.

    Example:
        >>> str(unknown_name("command", "ft", ["fit", "merge"]))
        "unknown command 'ft'. Did you mean 'fit'?"
        >>> str(unknown_name("command", "x", ["fit", "merge"]))
        "unknown command 'x'. Known: fit, merge."
    """
    known = list(known)
    near = nearest_name(given, known)
    hint = f"Did you mean {near!r}?" if near else f"Known: {', '.join(known)}."
    return UserError(f"unknown {what} {given!r}. {hint}")
