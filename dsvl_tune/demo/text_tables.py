"""Questions about a table in text: the look-ups and comparisons of `scenes` without a picture."""

from __future__ import annotations

import random

from dsvl_tune.core.types import Conversation, Turn
from dsvl_tune.demo.palette import COLORS
from dsvl_tune.demo.questions import VALUES, Item, ask, written
from dsvl_tune.demo.scenes import QUESTIONS, training_wordings


def table_row(
    seed: int, split: str, questions: int = 10, most: int = 6, types: tuple[str, ...] | None = None
) -> list[Conversation]:
    """Conversations about one table of two or more colors, e.g. "red40, blue70." and a question.

    Args:
        seed: which table; a split and a seed always give the same row.
        split: train, validation or test; the splits share no seed.
        questions: most conversations in the row.
        most: most elements in the table.
        types: question types of `TRAINING_QUESTIONS` to ask in training; None asks all.
    """
    rng = random.Random(f"text_tables/{split}/{seed}")
    amount = rng.randint(2, most)
    names, values = rng.sample(sorted(COLORS), amount), rng.sample(VALUES, amount)
    items = [Item(name, value) for name, value in zip(names, values, strict=True)]
    table = written(items)
    wordings = training_wordings(types) if split == "train" else QUESTIONS
    return [
        Conversation(
            turns=(Turn("user", (f"{table}. {question}",)), Turn("assistant", (answer,))),
            source=f"text_tables/{split}/{seed}",
            question_type=f"table {type_}",
        )
        for type_, question, answer in ask(rng, items, wordings, questions)
    ]
