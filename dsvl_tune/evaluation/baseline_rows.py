"""The floor of a data module: what constant answers score on its test rows."""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_tune.core.types import Conversation
from dsvl_tune.evaluation.majority_baseline import Answered, constant_answer_floor

Floor = dict[str, float]
FLOOR_ROWS = 2000
"""Training rows whose answers the floor is counted on, over all sources."""


def floor_of_rows(
    trained: Sequence[Sequence[list[Conversation]]], test: Sequence[list[Conversation]]
) -> Floor:
    """As `metrics.floor` has it; {} where no test question has an answer.

    Args:
        trained: the training rows of each source. test: the rows that are asked.
    """
    each = FLOOR_ROWS // len(trained)
    known = (answered(c) for rows in trained for i in range(min(each, len(rows))) for c in rows[i])
    asked = [answered(c) for row in test for c in row if c.turns[-1].role == "assistant"]
    return constant_answer_floor(known, asked) if asked else {}


def answered(conversation: Conversation) -> Answered:
    """The last question of a conversation with its answer."""
    question, answer = conversation.turns[-2:]
    return Answered(conversation.question_type, question.text, answer.text)
