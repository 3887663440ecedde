"""How long rows are: measured once, kept in the cache chunk by chunk, so a broken pass goes on where it broke."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsvl_tune.core.cache_folder import cached
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation, Processor
from dsvl_tune.data.encoding.tokenize import OnOverflow, tokenize
from dsvl_tune.data.validation.inspect import Facts, processor_identity, survey

CHUNK = 20_000
"""Rows of a file in the cache."""


@dataclass(frozen=True)
class MeasureRow:
    """Finds the length of a row: of a message tree the images once and each conversation's other tokens."""

    processor: Processor
    max_tokens: int | None = None
    on_overflow: OnOverflow = "error"

    def __call__(self, row: list[Conversation]) -> list[Facts]:
        """The row's tokens, as one fact.

        Raises:
            UserError: as `encode.tokenize`.
        """
        rows = [
            tokenize(one, self.processor, "training", self.max_tokens, self.on_overflow)
            for one in row
        ]
        shared = (len(row) - 1) * rows[0].image_tokens
        return [Facts(row[0].source, tokens=sum(len(tokens.input_ids) for tokens in rows) - shared)]

    def identity(self) -> str:
        """What a length depends on beside the row."""
        return f"{(self.max_tokens, self.on_overflow)}{processor_identity(self.processor)}"


@dataclass(frozen=True)
class Chunk(Sequence[list[Conversation]]):
    """Rows from one number to another."""

    rows: Sequence[list[Conversation]]
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> list[Conversation]:  # type: ignore[override]  # never sliced
        return self.rows[self.start + index]


def row_lengths(
    rows: Sequence[list[Conversation]], measure: MeasureRow, identity: str | None
) -> NDArray[np.int64]:
    """Tokens of every row.

    Args:
        rows: a row is a message tree or a conversation alone.
        measure: how.
        identity: equal for equal rows, as file stamps are; None for rows that have none and are measured every time.

    Raises:
        UserError: a row that cannot be trained on.
    """
    key = (
        None
        if identity is None
        else blake2b((identity + measure.identity()).encode(), digest_size=16).hexdigest()
    )
    found = []
    for start in range(0, len(rows), CHUNK):
        chunk = Chunk(rows, start, min(start + CHUNK, len(rows)))
        if key is None:
            found.append(measured(chunk, measure))
        else:
            path = cached(
                "lengths", f"{key}/{start}", partial(save_lengths, chunk=chunk, measure=measure)
            )
            found.append(np.load(path))
    return np.concatenate(found)


def save_lengths(path: Path, chunk: Chunk, measure: MeasureRow) -> None:
    """Measure and keep."""
    with path.open("wb") as file:
        np.save(file, measured(chunk, measure))


def measured(chunk: Chunk, measure: MeasureRow) -> NDArray[np.int64]:
    """The lengths of a chunk."""
    found = []
    for facts in survey(chunk, measure, title=f"measuring rows from {chunk.start:,}"):
        if facts.error:
            raise UserError(facts.error)
        found.append(facts.tokens)
    return np.array(found, dtype=np.int64)
