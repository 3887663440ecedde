"""Rows that a seeded generator makes when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from dsvl_tune import demo as synthetic
from dsvl_tune.core.types import Conversation

MakeRow = Callable[[int], list[Conversation]]


@dataclass(frozen=True)
class GeneratedRows(Sequence[list[Conversation]]):
    """`length` rows of `make`, each a pure function of its number: nothing is stored, workers draw their own.

    Attributes:
        make: a row's number to the row.
        length: how many there are.
        settings: all that `make` depends on beside the number.
    """

    make: MakeRow
    length: int
    settings: Any

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[Conversation]:  # type: ignore[override]  # never sliced
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.make(index)

    @property
    def identity(self) -> str:
        """The settings, and the generators' code."""
        return f"{self.settings}{generators_digest()}"


@lru_cache(maxsize=1)
def generators_digest() -> str:
    """Another one whenever the code of a generator is another."""
    folder = Path(str(synthetic.__file__)).parent
    code = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return blake2b(code, digest_size=16).hexdigest()
