"""Rows that a seeded generator makes when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dsvl_tune.schema import Conversation

MakeRow = Callable[[int], list[Conversation]]


@dataclass(frozen=True)
class GeneratedRows(Sequence[list[Conversation]]):
    """`length` rows of `make`, each a pure function of its number: nothing is stored, workers draw their own."""

    make: MakeRow
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[Conversation]:  # type: ignore[override]  # never sliced
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.make(index)
