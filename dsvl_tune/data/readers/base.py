"""What every reader offers, whether its rows are in an opened file or come one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Parse = Callable[[Any, str], Any]
"""A row as it is in its file, and its source for errors -> the row's value."""


@dataclass(frozen=True)
class Record:
    """A row that was found and not parsed yet, so that a worker process can parse it.

    Attributes:
        content: the row as it is in its file.
        parse: makes the row's value of `content` and `source`.
        source: file and row, as errors name them.
        root: folder that the row's image paths are relative to by default.
    """

    content: Any
    parse: Parse
    source: str
    root: Path

    def value(self) -> Any:
        """The row's value, a dictionary in most formats.

        Raises:
            UserError: the content is not valid in its format.
        """
        return self.parse(self.content, self.source)


class Reader(Protocol):
    """Rows of a file, of several files, of a table, or of a stream."""

    @property
    def name(self) -> str:
        """What errors call it."""

    @property
    def num_rows(self) -> int | None:
        """Number of rows; None for a stream, which is never counted."""

    @property
    def identity(self) -> str | None:
        """Cache key: equal keys imply equal rows. None disables caching."""

    @property
    def checksum(self) -> int:
        """Changes whenever the rows change, and not with the folder that they are in."""

    @property
    def files(self) -> Sequence[RowFile]:
        """The opened files that hold the rows, in order; none for a stream."""

    def record(self, index: int) -> Record:
        """The row of that number. A stream reads through the rows before it."""

    def iterate(self, start: int = 0) -> Iterator[Record]:
        """The rows from number `start` on, once, in the order of the files."""


class RowFile(Reader, Protocol):
    """Rows of one opened file or table, some of which can be written to another file."""

    @property
    def file_name(self) -> str:
        """A name for the file that `write` makes."""

    @property
    def root(self) -> Path:
        """Folder that image paths are relative to by default."""

    def __len__(self) -> int: ...

    def write(self, indices: Sequence[int], path: Path) -> None:
        """Write a file of the same format with some of the rows, unchanged.

        Args:
            indices: numbers of the rows to write, in order.
            path: the file to write.
        """


@dataclass(frozen=True)
class LoadedRecords:
    """Rows that were read into memory: a reader of few rows that are not on this machine.

    Attributes:
        name: what errors call it.
        records: the rows.
    """

    name: str
    records: Sequence[Record]
    identity: None = None
    checksum: int = 0
    files: tuple[RowFile, ...] = ()

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.records)

    def record(self, index: int) -> Record:
        """The row of that number."""
        return self.records[index]

    def iterate(self, start: int = 0) -> Iterator[Record]:
        """The rows from number `start` on."""
        return iter(self.records[start:])
