"""Questions about a written table: the look-ups and comparisons of `scenes` without a picture."""

from __future__ import annotations

import random

from dsvl_tune.data.synthetic.palette import COLOURS
from dsvl_tune.data.synthetic.questions import VALUES, Item, ask
from dsvl_tune.data.synthetic.scenes import QUESTIONS, TRAINING_QUESTIONS
from dsvl_tune.schema import Conversation, Turn


def table_row(seed: int, split: str, questions: int = 10, most: int = 6) -> list[Conversation]:
    """Conversations about one table of two or more colours, e.g. "red 40, blue 70." and a question.

    Args:
        seed: which table; a split and a seed always give the same row.
        split: train, validation or test; the splits share no seed.
        questions: most conversations in the row.
        most: most elements in the table.
    """
    rng = random.Random(f"text_tables/{split}/{seed}")
    amount = rng.randint(2, most)
    names, values = rng.sample(sorted(COLOURS), amount), rng.sample(VALUES, amount)
    items = [Item(name, value) for name, value in zip(names, values, strict=True)]
    table = ", ".join(f"{item.name} {item.value}" for item in items)
    wordings = TRAINING_QUESTIONS if split == "train" else QUESTIONS
    return [
        Conversation(
            turns=(Turn("user", (f"{table}. {question}",)), Turn("assistant", (answer,))),
            origin=f"text_tables/{split}/{seed}",
            kind=f"table {kind}",
        )
        for kind, question, answer in ask(rng, items, wordings, questions)
    ]
