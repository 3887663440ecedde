"""Endless orders of the rows of one source, split into lanes.

A lane is what one process reads of a stream: lane k of n takes every n-th shard. Rows that have
numbers cost the same to read in any order; of them, lane k takes every n-th row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsvl_tune.data.readers.base import Record
from dsvl_tune.data.readers.stream import Stream

DRAWS = 4096
"""Draws with replacement that are made at a time."""


class RowOrder(ABC):
    """An endless order of a source's rows."""

    @abstractmethod
    def keys(self, lane: int, num_lanes: int, start: int, rows: int) -> Sequence[Any]:
        """Keys of rows `start` to `start + rows` of a lane, counted since the run began."""


class ShuffledOrder(RowOrder):
    """All rows in a new order each time: no row comes again before all others have.

    Args:
        num_rows: rows of the source.
        seed: seed of the orders, with the number of the pass.
    """

    def __init__(self, num_rows: int, seed: tuple[int, ...]) -> None:
        self.num_rows = num_rows
        self.seed = seed
        self.order = lru_cache(maxsize=2)(self.draw_order)

    def draw_order(self, number: int) -> NDArray[np.int64]:
        """[num_rows] int64: the order of a pass."""
        return np.random.default_rng((*self.seed, number)).permutation(self.num_rows)

    def key_at(self, number: int) -> int:
        """The row that comes as that number, counted over all passes."""
        turn, place = divmod(number, self.num_rows)
        return int(self.order(turn)[place])

    def keys(self, lane: int, num_lanes: int, start: int, rows: int) -> list[int]:
        """As `RowOrder.keys`."""
        return [self.key_at(row * num_lanes + lane) for row in range(start, start + rows)]


class DrawnOrder(ShuffledOrder):
    """Rows drawn with replacement. Arguments as in `ShuffledOrder`."""

    def draw_order(self, number: int) -> NDArray[np.int64]:
        """[DRAWS] int64: one block of draws."""
        return np.random.default_rng((*self.seed, number)).integers(self.num_rows, size=DRAWS)

    def key_at(self, number: int) -> int:
        """The row that is drawn as that number."""
        turn, place = divmod(number, DRAWS)
        return int(self.order(turn)[place])


class StreamOrder(RowOrder):
    """The order of a stream. Rows that follow each other are read on without opening a shard again.

    If the stream has fewer shards than there are lanes, every lane reads all of it and keeps its
    part.

    Args:
        stream: the rows.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.reading: dict[int, SequentialRows] = {}
        self.whole = lru_cache(maxsize=1)(self.read_whole)

    def keys(self, lane: int, num_lanes: int, start: int, rows: int) -> Sequence[Record]:
        """As `RowOrder.keys`."""
        if len(self.stream.shards) < num_lanes:
            return self.whole(start * num_lanes, rows * num_lanes)[lane::num_lanes]
        return self.reader(lane, num_lanes).read(start, rows)

    def read_whole(self, start: int, rows: int) -> list[Record]:
        """Rows of the stream as a single lane, shared by the lanes that a process deals with."""
        return self.reader(0, 1).read(start, rows)

    def reader(self, lane: int, num_lanes: int) -> SequentialRows:
        """What reads a lane."""
        if lane not in self.reading:
            self.reading[lane] = SequentialRows(
                lambda start: self.stream.shuffled(start, lane, num_lanes)
            )
        return self.reading[lane]


class SequentialRows:
    """Rows by number that are cheap to read if each request continues the one before.

    Args:
        begin: reads rows one after another, from a number on.
    """

    def __init__(self, begin: Callable[[int], Iterator[Record]]) -> None:
        self.begin = begin
        self.rows: Iterator[Record] = iter(())
        self.next = -1

    def read(self, start: int, rows: int) -> list[Record]:
        """Rows `start` to `start + rows`."""
        if start != self.next:
            self.rows = self.begin(start)
        self.next = start + rows
        return list(islice(self.rows, rows))


def make_order(source: int | Stream, seed: tuple[int, ...], *, drawn: bool = False) -> RowOrder:
    """The order of a source's rows.

    Args:
        source: the number of its rows, or the stream that they come from.
        seed: seed of the order; a stream has its own.
        drawn: whether rows are drawn with replacement.
    """
    if isinstance(source, Stream):
        return StreamOrder(source)
    return DrawnOrder(source, seed) if drawn else ShuffledOrder(source, seed)
