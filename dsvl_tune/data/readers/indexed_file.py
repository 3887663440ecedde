"""Opened files whose rows are ranges of bytes: found once, memory-mapped, parsed when asked for.

Opening a file costs 24 bytes of memory per row. The system pages the file in and out, so a data set
may be larger than memory, and worker processes share it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.images.file_hints import nearest_file
from dsvl_tune.data.readers.base import Record, RowFile
from dsvl_tune.data.readers.checksum import content_checksum
from dsvl_tune.data.readers.row_scan import RowLayout, Scan, Spans, byte_blocks

BLOCK_BYTES = 1 << 24
"""Bytes that are searched for rows at a time."""
Stamp = tuple[int, int]
"""Size of a file in bytes, and its modification time in ns."""


@dataclass(frozen=True)
class IndexedFile:
    """The rows of one file.

    Attributes:
        path: the file.
        stamp: its size and modification time when it was opened.
        spans: [R, 3] int64: first byte of a row, the byte after its last, and its number in errors.
        layout: how its rows are written.
    """

    path: Path
    stamp: Stamp
    spans: Spans
    layout: RowLayout

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.spans)

    @property
    def name(self) -> str:
        """The file as it was named."""
        return str(self.path)

    @property
    def file_name(self) -> str:
        """The file's name without its folder."""
        return self.path.name

    @property
    def root(self) -> Path:
        """The file's folder, which image paths are relative to by default."""
        return self.path.parent

    @property
    def files(self) -> Sequence[RowFile]:
        """This file."""
        return (self,)

    @property
    def identity(self) -> str:
        """The file, its size and its modification time."""
        return f"{self.path.resolve()}{self.stamp}"

    @property
    def checksum(self) -> int:
        """CRC-32 of the file."""
        return content_checksum(self.path, self.stamp)

    def content(self, index: int) -> bytes:
        """The bytes of a row."""
        start, end, _ = self.spans[index]
        return mapped(self.path, self.stamp)[start:end]

    def record(self, index: int) -> Record:
        """The row of that number."""
        source = self.layout.source(self.name, int(self.spans[index, 2]))
        return Record(self.content(index), self.layout.parse, source, self.root)

    def iterate(self, start: int = 0) -> Iterator[Record]:
        """The rows from number `start` on."""
        return map(self.record, range(start, len(self)))

    def write(self, indices: Sequence[int], path: Path) -> None:
        """Write a file of the same format with some of the rows, byte for byte."""
        with path.open("wb") as file:
            file.write(self.layout.before)
            for position, index in enumerate(indices):
                if position:
                    file.write(self.layout.between)
                file.write(self.content(index))
            file.write(self.layout.after)


def open_indexed(path: Path, scan: Scan) -> IndexedFile:
    """The rows of a file, found in one pass over it.

    Args:
        path: the file.
        scan: finds the rows of its format.

    Raises:
        UserError: the file cannot be read, or its rows cannot be found.
    """
    stamp = file_stamp(path)
    try:
        with path.open("rb") as file:
            rows = scan(byte_blocks(file, BLOCK_BYTES), str(path))
            spans = rows.spans()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be read ({reason}). Check the path.") from None
    return IndexedFile(path, stamp, spans, rows.layout)


def file_stamp(path: Path) -> Stamp:
    """Size and modification time of a file.

    Raises:
        UserError: there is no such file, or it may not be read.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        nearest = nearest_file(path) if isinstance(error, FileNotFoundError) else None
        hint = f"Did you mean {nearest.name!a}? " if nearest else ""
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}). {hint}Check the path.") from None
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)
def mapped(path: Path, stamp: Stamp) -> bytes | mmap.mmap:
    """The file's bytes, mapped once per process.

    Raises:
        UserError: the file is not the one that was opened.
    """
    with path.open("rb") as file:
        if file_stamp(path) != stamp:
            raise UserError(f"{path}: changed since it was opened. Start again.")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if stamp[0] else b""
