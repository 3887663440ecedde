"""Rows that lie one after another in one file, memory-mapped: lines of JSON or CSV, a JSON list, the samples of a tar.

Opening a file finds where its rows lie and keeps 24 bytes a row; a row is parsed when it is asked for. The system pages
the file in and out, so a set may be larger than memory, and worker processes share it.
"""

from __future__ import annotations

import json
import mmap
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsvl_tune.data.row_text import CsvDialect, parse_csv, parse_json, parse_sample
from dsvl_tune.schema import UserError

BLOCK = 1 << 24
"""Bytes that are searched at once."""
BOM = b"\xef\xbb\xbf"
Spans = NDArray[np.int64]
Stamp = tuple[int, int]


@dataclass(frozen=True)
class ByteRows:
    """The rows of one file.

    Attributes:
        path: the file.
        stamp: its size in bytes and its time of change in ns: another file under this name is not read by these spans.
        spans: [R, 3] int64: first byte, byte after the last, and the number that errors name.
        parse: a row's bytes and its origin to its value.
        mark: what stands between path and number in an origin.
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
    def file_name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def root(self) -> Path:
        """Where image paths start from unless told otherwise."""
        return self.path.parent

    def origin(self, index: int) -> str:
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
        return self.parse(self.content(index), self.origin(index))

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
        raise UserError(f"{path}: empty. Expected the column names in the first line, then a row a line.")
    header = content[slice(*spans[0, :2])]
    dialect = CsvDialect("\t" if path.suffix.lower() == ".tsv" else ",", header)
    rows = not_blank(content, spans[1:] - np.array([0, 0, 1]))
    return ByteRows(path, stamp, rows, partial(parse_csv, dialect=dialect), ": row ", (header + b"\n", b"\n", b"\n"))


def open_tar(path: Path) -> ByteRows:
    """A WebDataset shard: neighbouring members whose names are equal up to the first dot are one row."""
    _, stamp = map_file(path)
    try:
        found = np.array(list(sample_spans(path)), dtype=np.int64).reshape(-1, 2)
    except tarfile.TarError as error:
        raise UserError(f"{path}: not an uncompressed tar ({error}). Unpack a compressed one first.") from None
    return ByteRows(path, stamp, numbered(found), parse_sample, ": sample ", (b"", b"", bytes(1024)))


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


def list_spans(content: bytes | mmap.mmap, path: Path) -> Iterator[tuple[int, int]]:
    """First byte and byte after the last of each value of a JSON list; reads the file in blocks.

    Raises:
        UserError: it is not JSON, or not a list.
    """
    start = len(BOM) if content[:3] == BOM else 0
    window = Window(content, start, path)
    window.take("[")
    number = 1
    while not (number == 1 and window.peek() == "]"):
        yield window.value(number)
        number += 1
        if window.peek() != ",":
            break
        window.take(",")
    window.take("]")
    if window.peek():
        raise UserError(f"{path}: text after the end of the list. A file with a row a line is to be named .jsonl.")


class Window:
    """A piece of a JSON text that moves along the file; grows only where one value is larger than a block."""

    def __init__(self, content: bytes | mmap.mmap, start: int, path: Path) -> None:
        self.content, self.path = content, path
        self.read = self.byte = start
        self.text, self.at = "", 0
        self.decode = json.JSONDecoder().raw_decode

    def more(self) -> bool:
        """Append a block; whether there was one. It is cut behind a whole character."""
        if self.read >= len(self.content):
            return False
        end = min(self.read + BLOCK, len(self.content))
        while end < len(self.content) and self.content[end] & 0xC0 == 0x80:
            end -= 1
        try:
            block = self.content[self.read : end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.path}: byte {self.read + error.start} is not UTF-8. Save the file as UTF-8."
            ) from None
        self.text, self.at, self.read = self.text[self.at :] + block, 0, end
        return True

    def move(self, to: int) -> None:
        """Go on to a character of the text."""
        self.byte += len(self.text[self.at : to].encode("utf-8"))
        self.at = to

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            found = re.compile(r"[^ \t\r\n]").search(self.text, self.at)
            self.move(found.start() if found else len(self.text))
            if found or not self.more():
                return found[0] if found else ""

    def take(self, expected: str) -> None:
        """Pass over a character that must come next."""
        if (found := self.peek()) != expected:
            raise UserError(
                f"{self.path}: not JSON: {found or 'the end'!r} at byte {self.byte}, expected {expected!r}. "
                "Expected a list of rows (JSON) or one complete row a line (JSONL)."
            )
        self.move(self.at + 1)

    def value(self, number: int) -> tuple[int, int]:
        """Where the next value lies."""
        self.peek()
        while True:
            try:
                _, end = self.decode(self.text, self.at)
                break
            except (ValueError, RecursionError) as error:
                if not self.more():
                    raise UserError(f"{self.path}: row {number}: not JSON ({error}). Repair the row.") from None
        start = self.byte
        self.move(end)
        return start, self.byte


def sample_spans(path: Path) -> Iterator[tuple[int, int]]:
    """Bytes of each sample with its members' headers: a slice of a tar is a tar."""
    start, sample = 0, ""
    with tarfile.open(path, "r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else they pile up: tarfile's own advice for long archives
            if not member.isfile():
                continue
            folder, _, base = member.name.rpartition("/")
            key = f"{folder}/{base.partition('.')[0]}"
            if key != sample and sample:
                yield start, member.offset
            if key != sample:
                start, sample = member.offset, key
        if sample:
            yield start, tar.offset
