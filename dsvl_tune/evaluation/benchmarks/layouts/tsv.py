"""VLMEvalKit's TSV files: a row is a question with its images in base64.

Layout: open-compass/VLMEvalKit, `vlmeval/dataset/image_base.py`. Unlike there, the texts "None",
"NA" and "null" are texts: only an empty cell is missing.
"""

from __future__ import annotations

import base64
import binascii
import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout, RawRecord
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow, parse_list

LONGEST_POINTER = 64
"""An image of at most so many characters is the index of the row that has it."""
LONGEST_CELL = 1 << 30
"""csv's own limit is smaller than an image."""


def tsv_layout(
    file: str,
    *columns: str,
    row: Callable[[FileRecord], BenchmarkRow | None] | None = None,
) -> Layout:
    """The layout of a benchmark's TSV file.

    Args:
        file: its name.
        columns: that it must have beside `index`, `image` and `question`.
        row: the row of a record; None takes every column as it is.
    """
    return Layout(
        name="VLMEvalKit's TSV",
        files=(file,),
        fields=("index", "image", "question", *columns),
        records=tsv_records,
        row=row or tsv_row,
        names=tsv_columns,
    )


def tsv_columns(path: Path) -> list[str]:
    """Names of the columns of a TSV file.

    Raises:
        UserError: it cannot be read.
    """
    csv.field_size_limit(LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file, delimiter="\t"), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: could not be read ({error}). Expected a TSV file.") from error


def tsv_records(path: Path) -> Iterator[RawRecord]:
    """The records of a TSV file. An image that is given as the index of another row is found.

    Raises:
        UserError: the file cannot be read, a row has not as many cells as the header, or an image
            points at a row without one.
    """
    csv.field_size_limit(LONGEST_CELL)
    pictures: dict[str, str] = {}
    pointing: list[tuple[str, dict[str, str]]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, cells in enumerate(csv.DictReader(file, delimiter="\t"), 1):
                place = f"row {number}"
                if None in cells or None in cells.values():
                    raise UserError(f"{path}, {place}: not as many cells as the header has.")
                pointing.append((place, cells))
                if len(cells.get("image", "")) > LONGEST_POINTER:
                    pictures.setdefault(cells.get("index", ""), cells["image"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: could not be read ({error}). Expected a TSV file.") from error
    for place, cells in pointing:
        if 0 < len(cells.get("image", "")) <= LONGEST_POINTER:
            cells["image"] = _picture(cells["image"], pictures, f"{path}, {place}")
        yield RawRecord(place, cells)


def _picture(index: str, pictures: Mapping[str, str], source: str) -> str:
    """The image of another row.

    Raises:
        UserError: there is none.
    """
    if index not in pictures:
        raise UserError(f"{source}: image {index!r}, expected the index of a row with an image.")
    return pictures[index]


def tsv_row(record: FileRecord) -> BenchmarkRow:
    """The row of a TSV record, every other column as it is."""
    cells = {name: cell for name, cell in record.fields.items() if name not in ("index", "image")}
    return record.row(record.text("index"), tsv_images(record), cells)


def tsv_images(record: FileRecord) -> tuple[ImageRef, ...]:
    """The images of a TSV record: base64, or a list of it.

    Raises:
        UserError: there is none, or it is no image in base64.
    """
    cell = record.fields["image"]
    if not cell:
        raise UserError(f"{record.source}: image is empty. Expected an image in base64.")
    return tuple(_decode(text, record) for text in parse_list(cell) or (cell,))


def _decode(text: str, record: FileRecord) -> ImageRef:
    """An image in base64."""
    try:
        return record.pooled(base64.b64decode(text, validate=True))
    except binascii.Error as error:
        raise UserError(f"{record.source}: image is not in base64 ({error}).") from error
