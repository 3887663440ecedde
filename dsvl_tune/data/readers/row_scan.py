"""Rows that are ranges of bytes: how a format finds them, in opened files and in shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers.base import Parse

Spans = NDArray[np.int64]
"""[R, 3]: first byte of a row, the byte after its last, and the number that errors give it."""


@dataclass(frozen=True)
class RowLayout:
    """How the rows of a file are written.

    Attributes:
        parse: bytes and source of a row to its value.
        label: text between the file's name and the row's number in a source.
        before: bytes before the first row.
        between: bytes between two rows.
        after: bytes after the last row.
    """

    parse: Parse
    label: str
    before: bytes = b""
    between: bytes = b""
    after: bytes = b""

    def source(self, path: str, number: int) -> str:
        """File and row, as errors name them."""
        return f"{path}{self.label}{number}"


class RowScan(Protocol):
    """One pass over a file: either of the two methods may be called, once."""

    @property
    def layout(self) -> RowLayout:
        """How the rows are written."""

    def spans(self) -> Spans:
        """Where the rows are in the file."""

    def rows(self) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of each row."""


MAX_ROW_BYTES = 1 << 28
"""A longer row is refused before it is read: a file without a line break may be larger than memory.
256 MB hold several photographs as data: URLs."""
Scan = Callable[[Iterable[bytes], str], RowScan]
"""A file's bytes, in blocks, and its name for errors -> its rows."""


def too_long(path: str, number: int) -> UserError:
    """The error for a row that is too long."""
    return UserError(
        f"{path}: row {number} is longer than {MAX_ROW_BYTES // 10**6} MB. Expected one row per "
        "line, or an array of rows; keep images in files of their own."
    )


def byte_blocks(file: BinaryIO, block_bytes: int) -> Iterator[bytes]:
    """The file's bytes in blocks of that size."""
    return iter(partial(file.read, block_bytes), b"")
