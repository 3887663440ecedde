"""Where the values of a JSON list lie in its file, found without holding the file in memory."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

from dsvl_tune.core.errors import UserError

BLOCK = 1 << 24
"""Bytes that are searched at once."""
BOM = b"\xef\xbb\xbf"


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
        raise UserError(
            f"{path}: text after the end of the list. A file with a row a line is to be named .jsonl."
        )


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
                    raise UserError(
                        f"{self.path}: row {number}: not JSON ({error}). Repair the row."
                    ) from None
        start = self.byte
        self.move(end)
        return start, self.byte
