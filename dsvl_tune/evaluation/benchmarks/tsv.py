"""VLMEvalKit's TSV files: a row is a question with its images in base64.

Layout: open-compass/VLMEvalKit, `vlmeval/dataset/image_base.py`. Unlike there, the texts "None",
"NA" and "null" are texts: only an empty cell is missing.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef

LONGEST_POINTER = 64
"""An image of at most so many characters is the index of the row that has it."""
LONGEST_CELL = 1 << 30
"""csv's own limit is smaller than an image."""


@dataclass(frozen=True)
class TsvRow:
    """A row of a TSV file.

    Attributes:
        index: unique within the file.
        images: in the order of the file.
        cells: text of each other column; empty cells are left out.
        source: file and row, for errors.
    """

    index: str
    images: tuple[ImageRef, ...]
    cells: Mapping[str, str]
    source: str

    def text(self, column: str) -> str:
        """Text of a column.

        Raises:
            UserError: the cell is empty.
        """
        if column not in self.cells:
            raise UserError(f"{self.source}: {column} is empty. Expected a text.")
        return self.cells[column]

    def texts(self, column: str) -> tuple[str, ...]:
        """The texts of a cell that holds a list, or its only one."""
        listed = parse_list(self.text(column))
        return (self.text(column),) if listed is None else listed

    @property
    def options(self) -> dict[str, str]:
        """The options by their letters: the columns A, B, ..."""
        return {letter: self.cells[letter] for letter in ascii_uppercase if letter in self.cells}


def read_tsv(path: Path, columns: tuple[str, ...]) -> list[TsvRow]:
    """Read a TSV file.

    Args:
        path: the file.
        columns: that it must have beside `index` and `image`.

    Raises:
        UserError: there is no such file, a column is missing, an index is there twice, or an image
            cannot be read.
    """
    csv.field_size_limit(LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            lacking = [one for one in ("index", "image", *columns) if one not in _names(reader)]
            if lacking:
                raise UserError(
                    f"{path}: no column {lacking[0]!r}, found {', '.join(_names(reader))}. "
                    "Expected VLMEvalKit's TSV of this benchmark."
                )
            records = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: could not be read ({error}). Expected a TSV file.") from error
    images: dict[str, str] = {}
    for number, record in enumerate(records, 1):
        source = f"{path}, row {number}"
        if None in record or None in record.values():
            raise UserError(f"{source}: not as many cells as the header has.")
        if record["index"] in images:
            raise UserError(f"{source}: index {record['index']!r} is there twice.")
        images[record["index"]] = record["image"]
    return [
        _row(record, images, f"{path}, row {number}") for number, record in enumerate(records, 1)
    ]


def _names(reader: csv.DictReader[str]) -> list[str]:
    """Names of the columns."""
    return list(reader.fieldnames or [])


def _row(record: Mapping[str, str], images: Mapping[str, str], source: str) -> TsvRow:
    """A record with its images."""
    cells = {name: cell for name, cell in record.items() if cell and name not in ("index", "image")}
    return TsvRow(record["index"], _images(record["image"], images, source), cells, source)


def _images(cell: str, images: Mapping[str, str], source: str) -> tuple[ImageRef, ...]:
    """The images of a cell: base64, a list of them, or the index of the row that has it.

    Raises:
        UserError: there is none, or it is no image in base64.
    """
    if 0 < len(cell) <= LONGEST_POINTER:
        if len(images.get(cell, "")) <= LONGEST_POINTER:
            raise UserError(f"{source}: image {cell!r}, expected the index of a row with an image.")
        cell = images[cell]
    if not cell:
        raise UserError(f"{source}: image is empty. Expected an image in base64.")
    return tuple(_decode(text, source) for text in parse_list(cell) or (cell,))


def _decode(text: str, source: str) -> ImageRef:
    """An image in base64."""
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise UserError(f"{source}: image is not in base64 ({error}).") from error
    return ImageRef(content, name=hashlib.blake2b(content, digest_size=16).hexdigest())


def parse_list(text: str) -> tuple[str, ...] | None:
    """The texts of a Python list of texts; None for any other text."""
    if not text.startswith("["):
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return None
    return tuple(value)
