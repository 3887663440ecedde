"""Checks of a run that come before its folder is written."""

from __future__ import annotations

from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Plan
from dsvl_tune.data.rows import Rows

LANGUAGE_PARTS = {"language_model", "embed_tokens", "lm_head"}
"""Model parts that every family has, and that every row passes."""

SEARCHED_ROWS = 100_000
"""Most training rows that are read to find out whether any shows an image."""


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


def check_rows_reach(plan: Plan, rows: Rows) -> None:
    """Raise if no training row shows an image, and only parts that encode images train.

    Args:
        plan: What happens to each model part.
        rows: Training rows; those of a stream are not known yet and not looked at.

    Raises:
        UserError: Every step would be without a gradient.
    """
    trained = [part for part, how in plan.items() if how.mode != "frozen"]
    num_rows = rows.num_rows
    if LANGUAGE_PARTS & set(trained) or num_rows is None or num_rows > SEARCHED_ROWS:
        return
    if not any(conversation.images for row in rows for conversation in row):
        raise UserError(
            f"model.parts: only {', '.join(trained)} would train, which a row reaches by its "
            f"images alone, but none of the {num_rows:,} training rows shows an image. Give rows "
            "with images, or train the language_model."
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


def check_answers(data: Any) -> None:
    """Raise if no test question has an answer to score by.

    Args:
        data: A `ConversationDataModule` that was set up.

    Raises:
        UserError: Scores would be empty.
    """
    rows = data.rows("test").flattened()
    if not any(conversation.accepted_answers for conversation in rows):
        raise UserError(
            "data: no test row has an answer, so nothing can be scored. Give rows with answers, or "
            "answer these questions with dsvl-tune predict."
        )
