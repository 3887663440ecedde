"""Checks of a run that come before its folder is written."""

from __future__ import annotations

from typing import Any

from dsvl_tune.core.errors import UserError


def set_up_fit(data: Any) -> None:
    """Set up a data module for training.

    Args:
        data: A `ConversationDataModule`.

    Raises:
        UserError: A row is invalid, or there are no validation rows.
    """
    data.setup("fit")
    if not data.rows("validation"):
        raise UserError(
            "data: there are no validation rows to select the best run checkpoint on. Give "
            "data.validation, or hold some out."
        )


def set_up_test(data: Any) -> None:
    """Set up a data module for scoring or answering its test questions.

    Args:
        data: A `ConversationDataModule`.

    Raises:
        UserError: A row is invalid, or there are no test rows.
    """
    data.setup("test")
    if not data.rows("test"):
        raise UserError(
            "data: there are no test rows to answer. Give some, e.g. --data.test questions.jsonl."
        )
