"""Shares of a benchmark that several processes answer; a command without a shard merges them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from dsvl_tune.core.errors import UserError

T = TypeVar("T")


class Shard(NamedTuple):
    """One of several shares.

    Attributes:
        number: from 1.
        total: number of shares.
    """

    number: int
    total: int

    def take(self, parts: Sequence[T]) -> list[T]:
        """The parts of this share: every n-th one of n shares."""
        return list(parts[self.number - 1 :: self.total])

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


def parse_shard(text: str) -> Shard:
    """The shard that "2/8" names.

    Raises:
        UserError: the text names none.
    """
    found = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    if found is None or int(found[1]) > int(found[2]):
        raise UserError(f"--shard {text}: expected a share and their number, e.g. 2/8.")
    return Shard(int(found[1]), int(found[2]))
