"""Rows that a seeded generator makes on access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from dsvl_tune.core.types import Conversation

MakeRow = Callable[[int], list[Conversation]]


@dataclass(frozen=True)
class GeneratedRows(Sequence[list[Conversation]]):
    """Rows that are a pure function of their number: nothing is stored, workers draw their own.

    Attributes:
        make: makes a row from its number.
        length: number of rows.
        settings: everything that `make` depends on besides the number.
    """

    make: MakeRow
    length: int
    settings: Any

    def __len__(self) -> int:
        return self.length

    # Rows are never sliced.
    def __getitem__(self, index: int) -> list[Conversation]:  # type: ignore[override]
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.make(index)

    @property
    def identity(self) -> str:
        """Cache key of the rows: the settings and the generators' code."""
        return f"{self.settings}{generators_digest()}"


@lru_cache(maxsize=1)
def generators_digest() -> str:
    """A digest of the generators' code."""
    folder = Path(__file__).parent
    code = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return blake2b(code, digest_size=16).hexdigest()
