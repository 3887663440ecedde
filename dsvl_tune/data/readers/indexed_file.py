"""Rows that lie one after another in one file, memory-mapped: lines of JSON or CSV, a JSON list, the samples of a tar.

Opening a file finds where its rows lie and keeps 24 bytes a row; a row is parsed when it is asked for. The system pages
the file in and out, so a set may be larger than memory, and worker processes share it.
"""

from __future__ import annotations

import mmap
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers.json_array import BLOCK, BOM, list_spans
from dsvl_tune.data.readers.parse import (
    CsvDialect,
    is_member,
    parse_csv,
    parse_json,
    parse_sample,
    sample_key,
)

Spans = NDArray[np.int64]
Stamp = tuple[int, int]


@dataclass(frozen=True)
class ByteRows:
    """The rows of one file.

    Attributes:
        path: the file.
        stamp: its size in bytes and its time of change in ns: another file under this name is not read by these spans.
        spans: [R, 3] int64: first byte, byte after the last, and the number that errors name.
        parse: a row's bytes and its source to its value.
        mark: what stands between path and number in an source.
        frame: bytes before, between and after the rows of a file of this kind.
    """

    path: Path
    stamp: Stamp
    spans: Spans
    parse: Callable[[bytes, str], Any]
    mark: str
    frame: tuple[bytes, bytes, bytes]

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def identity(self) -> str:
        """The file and its stamp."""
        return f"{self.path.resolve()}{self.stamp}"

    @property
    def checksum(self) -> int:
        """CRC-32 of the file; of a tar, which opening does not read whole either, of its rows' first headers."""
        content = mapped(self.path, self.stamp)
        if self.parse is not parse_sample:
            return crc32(content)
        headers = (content[start : start + tarfile.BLOCKSIZE] for start in self.spans[:, 0])
        return reduce(lambda found, header: crc32(header, found), headers, 0)

    @property
    def file_name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def root(self) -> Path:
        """Where image paths start from unless told otherwise."""
        return self.path.parent

    def source(self, index: int) -> str:
        """File and row, as errors name them."""
        return f"{self.path}{self.mark}{self.spans[index, 2]}"

    def content(self, index: int) -> bytes:
        """A row as it lies in the file."""
        start, end, _ = self.spans[index]
        return mapped(self.path, self.stamp)[start:end]

    def row(self, index: int) -> Any:
        """A row's value.

        Raises:
            UserError: it is not what a file of this kind holds.
        """
        return self.parse(self.content(index), self.source(index))

    def write(self, kept: Sequence[int], path: Path) -> None:
        """A file of the same kind with some of the rows, byte for byte."""
        before, between, after = self.frame
        with path.open("wb") as file:
            file.write(before)
            for position, index in enumerate(kept):
                file.write(between if position else b"")
                file.write(self.content(index))
            file.write(after)


def open_lines(path: Path) -> ByteRows:
    """JSON lines; blank ones are passed over and counted."""
    content, stamp = map_file(path)
    spans = not_blank(content, line_spans(content))
    return ByteRows(path, stamp, spans, parse_json, ":", (b"", b"\n", b"\n"))


def open_json(path: Path) -> ByteRows:
    """A JSON list of rows, or lines if it does not begin with a bracket."""
    content, stamp = map_file(path)
    first = re.search(rb"\S", content[len(BOM) if content[:3] == BOM else 0 :][:4096])
    if first is None or first[0] != b"[":
        return open_lines(path)
    found = np.array(list(list_spans(content, path)), dtype=np.int64).reshape(-1, 2)
    return ByteRows(path, stamp, numbered(found), parse_json, ": row ", (b"[\n", b",\n", b"\n]\n"))


def open_csv(path: Path) -> ByteRows:
    """A table of text with its column names in the first record; tabs between fields if the file's name ends so."""
    content, stamp = map_file(path)
    spans = line_spans(content, quoted=True)
    if not len(spans):
        raise UserError(
            f"{path}: empty. Expected the column names in the first line, then a row a line."
        )
    header = content[slice(*spans[0, :2])]
    dialect = CsvDialect("\t" if path.suffix.lower() == ".tsv" else ",", header)
    rows = not_blank(content, spans[1:] - np.array([0, 0, 1]))
    return ByteRows(
        path,
        stamp,
        rows,
        partial(parse_csv, dialect=dialect),
        ": row ",
        (header + b"\n", b"\n", b"\n"),
    )


def open_tar(path: Path) -> ByteRows:
    """A WebDataset shard: neighbouring members whose names are equal up to the first dot are one row."""
    _, stamp = map_file(path)
    try:
        found = np.array(list(sample_spans(path)), dtype=np.int64).reshape(-1, 2)
    except tarfile.TarError as error:
        raise UserError(
            f"{path}: not an uncompressed tar ({error}). Unpack a compressed one first."
        ) from None
    return ByteRows(
        path, stamp, numbered(found), parse_sample, ": sample ", (b"", b"", bytes(1024))
    )


def map_file(path: Path) -> tuple[bytes | mmap.mmap, Stamp]:
    """The file's bytes without reading them, and its stamp.

    Raises:
        UserError: there is no such file, or it may not be read.
    """
    try:
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        return mapped(path, stamp), stamp
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Check the path.") from None


@lru_cache(maxsize=256)
def mapped(path: Path, stamp: Stamp) -> bytes | mmap.mmap:
    """The file's bytes, mapped once a process."""
    with path.open("rb") as file:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) != stamp:
            raise UserError(f"{path}: changed since it was opened. Start again.")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if stamp[0] else b""


def line_spans(content: bytes | mmap.mmap, quoted: bool = False) -> Spans:
    """Lines with their numbers from 1; with `quoted`, a newline between double quotes ends none (RFC 4180)."""
    found, parity = [], 0
    for start in range(0, len(content), BLOCK):
        block = np.frombuffer(content, np.uint8, min(BLOCK, len(content) - start), start)
        newline = block == ord("\n")
        if quoted:  # a doubled quote inside a field leaves the parity as it is
            inside = (np.cumsum(block == ord('"'), dtype=np.uint8) + parity) & 1
            newline &= inside == 0
            parity = int(inside[-1])
        found.append(np.flatnonzero(newline) + start)
    ends = np.concatenate(found) if found else np.zeros(0, np.int64)
    if len(content) and (not len(ends) or ends[-1] != len(content) - 1):
        ends = np.append(ends, len(content))
    starts = np.concatenate([[len(BOM) if content[:3] == BOM else 0], ends[:-1] + 1])[: len(ends)]
    return numbered(np.stack([starts, ends], axis=1).astype(np.int64))


def not_blank(content: bytes | mmap.mmap, spans: Spans) -> Spans:
    """The spans that hold more than white space; a line of more than 80 characters is taken to hold something."""
    short = np.flatnonzero(spans[:, 1] - spans[:, 0] <= 80)
    blank = [index for index in short if not content[spans[index, 0] : spans[index, 1]].strip()]
    return np.delete(spans, blank, axis=0) if blank else spans


def numbered(spans: Spans) -> Spans:
    """[R, 2] -> [R, 3], numbered from 1."""
    return np.column_stack([spans, np.arange(1, len(spans) + 1)])


def sample_spans(path: Path) -> Iterator[tuple[int, int]]:
    """Bytes of each sample with its members' headers: a slice of a tar is a tar."""
    start, sample = 0, ""
    with tarfile.open(path, "r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else they pile up: tarfile's own advice for long archives
            if not is_member(member):
                continue
            key = sample_key(member.name)
            if key != sample and sample:
                yield start, member.offset
            if key != sample:
                start, sample = member.offset, key
        if sample:
            yield start, tar.offset
