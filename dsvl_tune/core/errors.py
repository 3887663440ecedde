"""Errors that end a command with one message."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: told in one message with exit code 2, without a traceback.

    The message says what is wrong and where, what was found, what was expected and what to do.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader worker hands its exception over as text that contains the worker's whole traceback;
        # what the user should read is what follows the last mention of this class.
        super().__init__(message.rsplit("errors.UserError: ", 1)[-1].strip())
