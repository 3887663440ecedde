"""Rows of conversations: what a data module serves of a split, whatever they come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dsvl_tune.core.types import Conversation
from dsvl_tune.data.readers.base import RowFile
from dsvl_tune.data.readers.stream import Stream

Item = TypeVar("Item")


class LazyItems(Dataset[Item]):
    """Numbered items, each read when it is asked for: a map-style data set that can be iterated."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of items."""

    @abstractmethod
    def __getitem__(self, index: Any) -> Item:
        """The item of that number."""

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class LoadedItems(LazyItems[Item]):
    """Items in memory.

    Attributes:
        items: the items.
    """

    items: Sequence[Item]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Item:
        return self.items[index]


class Rows(LazyItems[list[Conversation]]):
    """Rows that are read when they are asked for.

    A row is a message tree: a list of conversations about the same images. Plain data has lists of
    one. Rows have numbers, except those of a stream, which have no length and are asked for by the
    keys that `keys` and their sampler yield.

    Attributes:
        identity: cache key: equal keys imply equal rows. None disables caching.
        checksum: changes whenever the rows change; 0 if the settings determine them.
        picture_checksum: changes with the pictures that are files of their own.
        files: the opened files that hold the rows, in order; () if they are not opened from files.
        images_root: folder that image paths are relative to; None takes the folder of each file.
        stream: where the rows come from if they are streamed.
        lengths: [R] int64, tokens of each row if validation has measured them.
    """

    identity: str | None = None
    checksum: int = 0
    picture_checksum: int = 0
    files: Sequence[RowFile] = ()
    images_root: Path | None = None
    stream: Stream | None = None
    lengths: NDArray[np.int64] | None = None

    @property
    @abstractmethod
    def num_rows(self) -> int | None:
        """Number of rows; None for a stream."""

    @abstractmethod
    def __getitem__(self, index: Any) -> list[Conversation]:
        """A row.

        Args:
            index: its number, or what `keys` yields.

        Raises:
            UserError: the row is damaged, or not in its format.
        """

    @abstractmethod
    def flattened(self) -> LazyItems[Conversation]:
        """The conversations of all rows, in order.

        Raises:
            TypeError: the rows are a stream.
        """

    def __len__(self) -> int:
        if self.num_rows is None:
            raise TypeError("streamed rows have no length")
        return self.num_rows

    def __iter__(self) -> Iterator[list[Conversation]]:
        return (self[key] for key in self.keys())

    def keys(self) -> Iterator[Any]:
        """The key of every row, once, in the order of the files."""
        return iter(range(len(self)))

    def head(self, limit: int) -> Iterator[list[Conversation]]:
        """Up to `limit` of the first rows; of a stream, those that were read when it was opened."""
        return islice(self, limit)


@dataclass(frozen=True)
class LoadedRows(Rows):
    """Rows in memory.

    Attributes:
        rows: the rows.
    """

    rows: Sequence[list[Conversation]] = ()

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, index: Any) -> list[Conversation]:
        return self.rows[index]

    def flattened(self) -> LoadedItems[Conversation]:
        """The conversations of all rows, in order."""
        return LoadedItems([conversation for row in self.rows for conversation in row])
