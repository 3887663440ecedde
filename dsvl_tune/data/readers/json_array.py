"""Rows that are the values of a JSON array, found without holding the file in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

import numpy as np

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers.parse import parse_json
from dsvl_tune.data.readers.row_scan import MAX_ROW_BYTES, RowLayout, Spans, too_long

BOM = b"\xef\xbb\xbf"
NOT_BLANK = re.compile(r"[^ \t\r\n]")


class ArrayScan:
    """The rows of a JSON array.

    Args:
        blocks: the file's bytes, cut anywhere.
        path: the file, for errors.
    """

    layout = RowLayout(parse_json, label=": row ", before=b"[\n", between=b",\n", after=b"\n]\n")

    def __init__(self, blocks: Iterable[bytes], path: str) -> None:
        self.blocks = blocks
        self.path = path

    def spans(self) -> Spans:
        """Where the rows are in the file."""
        values = enumerate(array_values(self.blocks, self.path), start=1)
        found = [(start, end, number) for number, (start, end, _) in values]
        return np.array(found, dtype=np.int64).reshape(-1, 3)

    def rows(self) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of each row."""
        for number, (_, _, text) in enumerate(array_values(self.blocks, self.path), start=1):
            yield number, text.encode()


def array_values(blocks: Iterable[bytes], path: str) -> Iterator[tuple[int, int, str]]:
    """First byte, byte after the last, and text of each value of a JSON array.

    Args:
        blocks: the file's bytes, cut anywhere.
        path: the file, for errors.

    Raises:
        UserError: it is not JSON, or not an array.
    """
    window = JsonWindow(blocks, path)
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
        raise UserError(
            f"{path}: text after the end of the array. "
            "If the file has one row per line, name it .jsonl."
        )


class JsonWindow:
    """Part of a JSON text that moves along the file; larger than a block only if one value is.

    Args:
        blocks: the file's bytes, cut anywhere.
        path: the file, for errors.
    """

    def __init__(self, blocks: Iterable[bytes], path: str) -> None:
        self.blocks = iter(blocks)
        self.path = path
        self.text = ""
        self.at = 0  # where the window begins, in characters of `text`
        self.byte = 0  # and in bytes of the file
        self.decoded = 0  # bytes of the file that were decoded
        self.incomplete = b""  # the first bytes of a character that the next block completes
        self.decode = json.JSONDecoder().raw_decode

    def more(self) -> bool:
        """Append a block; whether there was one."""
        block = next(self.blocks, b"")
        if not block and not self.incomplete:
            return False
        content = self.incomplete + block
        if self.decoded == 0 and content.startswith(BOM):
            content = content[len(BOM) :]
            self.decoded = self.byte = len(BOM)
        end = whole_characters(content) if block else len(content)
        try:
            text = content[:end].decode("utf-8")
        except UnicodeDecodeError as error:
            position = self.decoded + error.start
            raise UserError(
                f"{self.path}: byte {position} is not UTF-8. Save the file as UTF-8."
            ) from None
        self.text = self.text[self.at :] + text
        self.at = 0
        self.decoded += end
        self.incomplete = content[end:]
        return True

    def move(self, to: int) -> None:
        """Let the window begin at a character of the text."""
        self.byte += len(self.text[self.at : to].encode("utf-8"))
        self.at = to

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            found = NOT_BLANK.search(self.text, self.at)
            self.move(found.start() if found else len(self.text))
            if found or not self.more():
                return found[0] if found else ""

    def take(self, expected: str) -> None:
        """Move past the next character, which must be this one.

        Raises:
            UserError: it is another one, or the text ends.
        """
        if (found := self.peek()) != expected:
            raise UserError(
                f"{self.path}: not JSON: {found or 'the end'!r} at byte {self.byte}, expected "
                f"{expected!r}. Expected a JSON array of rows, or one row per line (JSONL)."
            )
        self.move(self.at + 1)

    def value(self, number: int) -> tuple[int, int, str]:
        """Move past the next value: its first byte, the byte after its last, its text.

        Raises:
            UserError: it is not JSON.
        """
        self.peek()
        while True:
            try:
                _, end = self.decode(self.text, self.at)
                break
            except (ValueError, RecursionError, MemoryError) as error:
                if isinstance(error, RecursionError) or not self.read_as_much_again(number):
                    raise UserError(
                        f"{self.path}: row {number}: not JSON ({error}). Repair the row."
                    ) from None
        start = self.byte
        text = self.text[self.at : end]
        self.move(end)
        return start, self.byte, text

    def read_as_much_again(self, number: int) -> bool:
        """Append as much as the window holds, or a block; whether there was more.

        A value is decoded from its beginning every time, so blocks alone would take time that is
        quadratic in its length.
        """
        wanted = len(self.text) - self.at
        if wanted > MAX_ROW_BYTES:
            raise too_long(self.path, number)
        found = self.more()
        while found and len(self.text) - self.at < 2 * wanted and self.more():
            pass
        return found


def whole_characters(content: bytes) -> int:
    """Bytes of `content` up to the beginning of its last UTF-8 character if that one is cut."""
    for back in range(1, min(4, len(content)) + 1):
        byte = content[-back]
        if byte & 0xC0 == 0x80:  # inside a character
            continue
        length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        return len(content) - (back if back < length else 0)
    return len(content)
