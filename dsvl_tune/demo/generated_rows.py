"""Rows that a seeded generator makes on access."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from dsvl_tune.core.types import Conversation
from dsvl_tune.data.rows import LazyItems, LoadedRows, Rows

MakeRow = Callable[[int], list[Conversation]]


@dataclass(frozen=True)
class GeneratedRows(Rows):
    """Rows that are a pure function of their number: nothing is stored, workers make their own.

    Attributes:
        make: makes the row of a number.
        length: number of rows.
        settings: everything that `make` depends on besides the number.
    """

    make: MakeRow
    length: int
    settings: Any

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self.length

    def __getitem__(self, index: Any) -> list[Conversation]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.make(index)

    def flattened(self) -> LazyItems[Conversation]:
        """The conversations of all rows, in order, made now."""
        return LoadedRows(list(self)).flattened()

    @property
    def identity(self) -> str:  # type: ignore[override]
        """The settings, and the code of the generators."""
        return f"{self.settings}{generators_digest()}"


@lru_cache(maxsize=1)
def generators_digest() -> str:
    """Digest of the code of all generators."""
    folder = Path(__file__).parent
    code = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))
    return blake2b(code, digest_size=16).hexdigest()
