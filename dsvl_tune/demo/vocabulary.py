"""The generators' texts, to train a tokenizer in which each of their words is one token."""

from __future__ import annotations

from collections.abc import Iterator

from dsvl_tune.demo.chart_drawing import DRAWINGS
from dsvl_tune.demo.charts import chart_row
from dsvl_tune.demo.scenes import scene_row
from dsvl_tune.demo.text_tables import table_row

ROWS = 200
"""Rows per generator; every wording, color and number occurs many times in these."""


def generator_texts() -> Iterator[str]:
    """Every turn of some rows of each generator, as in a prompt."""
    for seed in range(ROWS):
        rows = [
            scene_row(seed, "train", questions=20, cells=True),
            table_row(seed, "train", questions=20),
        ]
        rows += [chart_row(seed, "train", kinds=(kind,), questions=20) for kind in DRAWINGS]
        for conversation in (conversation for row in rows for conversation in row):
            for turn, speaker in zip(conversation.turns, ("User", "Assistant"), strict=True):
                yield f"{speaker}: " + "".join(part for part in turn.parts if isinstance(part, str))
