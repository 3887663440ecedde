"""Rows that are lines: JSON lines, and the records of CSV and TSV tables.

A file is read in blocks of bytes, whether it is opened or streamed, and every block gives the lines
that end in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers.json_array import BOM, ArrayScan
from dsvl_tune.data.readers.parse import CsvDialect, parse_csv, parse_json
from dsvl_tune.data.readers.row_scan import (
    MAX_ROW_BYTES,
    RowLayout,
    RowScan,
    Spans,
    too_long,
)

BLANK = b" \t\n\r\x0b\x0c"
"""White space as `bytes.strip` removes it."""


PRETTY_BYTES = 4096
"""Bytes at the beginning of a file that tell whether its JSON is written over several lines."""


class LineBlock(NamedTuple):
    """Whole lines that follow one another in a file.

    Attributes:
        content: their bytes.
        offset: position of the first byte in the file.
        spans: [n, 3] int64, the lines that are not blank: first byte and byte after the last, both
            within the file, and the number of the line from 1.
    """

    content: bytes
    offset: int
    spans: Spans

    def line(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, both within the file."""
        return self.content[start - self.offset : end - self.offset]


@dataclass
class LineScan:
    """The rows of a file of lines.

    Attributes:
        layout: how they are written.
        blocks: where they are; can be gone through once.
    """

    layout: RowLayout
    blocks: Iterator[LineBlock]

    def spans(self) -> Spans:
        """Where the rows are in the file."""
        found = [block.spans for block in self.blocks]
        return np.concatenate(found) if found else np.zeros((0, 3), np.int64)

    def rows(self) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of each row."""
        for block in self.blocks:
            for start, end, number in block.spans.tolist():
                yield number, block.line(start, end)


def scan_json_lines(blocks: Iterable[bytes], path: str) -> RowScan:
    """JSON lines; blank lines are skipped and counted."""
    layout = RowLayout(parse_json, label=":", between=b"\n", after=b"\n")
    blocks = iter(blocks)
    head = next(blocks, b"")
    refuse_pretty_json(head, path)
    return LineScan(layout, line_blocks(chain([head], blocks), path))


def refuse_pretty_json(head: bytes, path: str) -> None:
    """Raise if a file is JSON over several lines, which is wrong in each of them.

    Args:
        head: its first bytes.
        path: the file, for the error.
    """
    lines = head.removeprefix(BOM)[:PRETTY_BYTES].split(b"\n", 2)
    first = lines[0].strip()
    if len(lines) > 1 and first in (b"{", b"[", b"[{") and lines[1].strip()[:1] in b'"{[]}':
        raise UserError(
            f"{path}: its JSON is written over several lines. Expected one row per line (jq -c . "
            "makes them), or an array of rows in a file named .json."
        )


def scan_json(blocks: Iterable[bytes], path: str) -> RowScan:
    """A JSON array of rows, or JSON lines if the file does not begin with a bracket."""
    blocks = iter(blocks)
    head = next(blocks, b"")
    blocks = chain([head], blocks)
    if head.removeprefix(BOM).lstrip(BLANK)[:1] == b"[":
        return ArrayScan(blocks, path)
    return scan_json_lines(blocks, path)


def scan_csv(blocks: Iterable[bytes], path: str, delimiter: str) -> RowScan:
    """A table of text with its column names in the first record.

    Raises:
        UserError: the file has no record.
    """
    lines = line_blocks(blocks, path, quoted=True)
    first = next((block for block in lines if len(block.spans)), None)
    if first is None:
        raise UserError(
            f"{path}: empty. Expected the column names in the first line, then one row per line."
        )
    start, end, _ = first.spans[0].tolist()
    header = first.line(start, end)
    first = first._replace(spans=first.spans[1:])
    layout = RowLayout(
        partial(parse_csv, dialect=CsvDialect(delimiter, header)),
        label=": row ",
        before=header + b"\n",
        between=b"\n",
        after=b"\n",
    )
    return LineScan(layout, map(without_header, chain([first], lines)))


def without_header(block: LineBlock) -> LineBlock:
    """The block with its records numbered from the one after the header."""
    return block._replace(spans=block.spans - np.array([0, 0, 1]))


def line_blocks(blocks: Iterable[bytes], path: str, *, quoted: bool = False) -> Iterator[LineBlock]:
    """The lines of a file.

    Args:
        blocks: the file's bytes, cut anywhere.
        path: the file, for errors.
        quoted: whether a newline between double quotes is part of the line (RFC 4180).
    """
    offset = number = parity = 0
    waiting: list[bytes] = []
    for block in blocks:
        newlines, parity = find_newlines(block, quoted, parity)
        if not len(newlines):
            waiting.append(block)
            if sum(map(len, waiting)) > MAX_ROW_BYTES:
                raise too_long(path, number + 1)
            continue
        before = b"".join(waiting)
        cut = int(newlines[-1]) + 1
        content = before + block[:cut]
        yield make_block(content, offset, number, newlines + len(before))
        offset += len(content)
        number += len(newlines)
        waiting = [block[cut:]]
    if rest := b"".join(waiting):
        yield make_block(rest, offset, number, np.array([len(rest)]))


def find_newlines(block: bytes, quoted: bool, parity: int) -> tuple[NDArray[np.int64], int]:
    """Positions of the newlines that end a line, and whether the block ends inside quotes (1 or 0).

    Args:
        block: part of a file.
        quoted: as in `line_blocks`.
        parity: 1 if the block begins inside quotes, else 0.
    """
    content = np.frombuffer(block, np.uint8)
    newline = content == ord("\n")
    if quoted and len(content):
        # A doubled quote inside a field leaves the parity unchanged.
        inside = (np.cumsum(content == ord('"'), dtype=np.uint8) + parity) & 1
        newline &= inside == 0
        parity = int(inside[-1])
    return np.flatnonzero(newline), parity


def make_block(content: bytes, offset: int, number: int, ends: NDArray[np.int64]) -> LineBlock:
    """The lines of `content` that are not blank.

    Args:
        content: whole lines.
        offset: position of the first byte in the file.
        number: lines before these.
        ends: [n] where each line ends within `content`, without its newline.
    """
    starts = np.concatenate([[0], ends[:-1] + 1])
    if offset == 0 and content.startswith(BOM):
        starts[0] = len(BOM)
    numbers = np.arange(number + 1, number + 1 + len(ends))
    spans = np.stack([starts + offset, ends + offset, numbers], axis=1).astype(np.int64)
    return LineBlock(content, offset, np.delete(spans, blank_lines(content, starts, ends), axis=0))


def blank_lines(content: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[int]:
    """Indices of the lines that hold white space only."""
    first_byte = np.frombuffer(content + b" ", np.uint8)[starts]
    candidates = np.flatnonzero((starts == ends) | np.isin(first_byte, np.frombuffer(BLANK, "u1")))
    return [i for i in candidates.tolist() if not content[starts[i] : ends[i]].strip(BLANK)]
