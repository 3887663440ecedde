"""What a layout is: which files a benchmark is published in, and how a record becomes a row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow, parse_list


class RawRecord(NamedTuple):
    """A record as it is in its file.

    Attributes:
        place: where it is in the file, for errors: "row 3".
        fields: its values by name.
    """

    place: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class FileRecord:
    """A record of a benchmark's file. Its methods raise a `UserError` with file, row and field.

    Attributes:
        file: that it is in.
        place: where it is in the file: "row 3".
        fields: its values by name.
        number: position over all files of the benchmark, from 0.
        pool: images in memory by name: rows that show the same one share its bytes.
    """

    file: Path
    place: str
    fields: Mapping[str, Any]
    number: int
    pool: dict[str, ImageRef] = field(default_factory=dict, repr=False)

    @property
    def source(self) -> str:
        """File and row."""
        return f"{self.file}, {self.place}"

    def fail(self, name: str, expected: str) -> UserError:
        """The error for a field that is not as expected."""
        found = "is missing" if name not in self.fields else f"is {str(self.fields[name])[:80]!r}"
        return UserError(f"{self.source}: field {name!r} {found}. Expected {expected}.")

    def optional(self, name: str) -> str:
        """Text of a text or number; "" where it is null or missing."""
        value = self.fields.get(name)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.fail(name, "a text")
        is_whole = isinstance(value, float) and value.is_integer()
        return str(int(value) if is_whole else value)

    def text(self, name: str) -> str:
        """Text of a text or number that must be there."""
        text = self.optional(name)
        if not text:
            raise self.fail(name, "a text")
        return text

    def texts(self, name: str) -> tuple[str, ...]:
        """Texts of a list, of a list that is written as text, or of one text; () for null."""
        value = self.fields.get(name)
        if isinstance(value, str):
            listed = parse_list(value)
            return (value,) if listed is None else listed
        if value is None:
            return ()
        if not isinstance(value, Sequence) or not all(isinstance(one, str) for one in value):
            raise self.fail(name, "a list of texts")
        return tuple(value)

    def options(self, name: str) -> dict[str, str]:
        """The texts of a list as the columns A, B, ..."""
        texts = self.texts(name)
        if len(texts) > len(ascii_uppercase):
            raise self.fail(name, f"at most {len(ascii_uppercase)} options")
        return dict(zip(ascii_uppercase, texts, strict=False))

    def letter(self, name: str, options: Mapping[str, str]) -> str:
        """The letter of the option whose number a field has; "" where the number is hidden."""
        number = self.optional(name)
        if number in ("", "-1"):
            return ""
        if not number.isdecimal() or int(number) >= len(options):
            raise self.fail(name, f"the number of an option, from 0 to {len(options) - 1}")
        return ascii_uppercase[int(number)]

    def images(self, *names: str, folders: Sequence[str] = (".",)) -> tuple[ImageRef, ...]:
        """The images of fields; null ones are left out.

        Args:
            names: of fields: a file name, what datasets stores of an image, or a list of these.
            folders: where files are looked for, relative to the record's file.
        """
        found: list[ImageRef] = []
        for name in names:
            value = self.fields.get(name)
            listed = value if isinstance(value, (list, tuple)) else [value]
            found += [self._image(one, name, folders) for one in listed if one is not None]
        if not found:
            raise self.fail(names[0], "an image")
        return tuple(found)

    def _image(self, value: Any, name: str, folders: Sequence[str]) -> ImageRef:
        """One image: of bytes, or a file."""
        if isinstance(value, ImageRef):
            return value
        if isinstance(value, Mapping):
            if value.get("bytes"):
                return self.pooled(value["bytes"])
            value = value.get("path")
        if not isinstance(value, str) or not value:
            raise self.fail(name, "an image: a file name, or bytes")
        places = [self.file.parent / folder / value for folder in folders]
        for path in places:
            if path.is_file():
                return ImageRef(path, str(path.resolve()))
        tried = ", ".join(map(str, places))
        raise UserError(f"{self.source}: field {name!r}: no image file {value!r}. Tried {tried}.")

    def pooled(self, content: bytes) -> ImageRef:
        """An image in memory."""
        name = hashlib.blake2b(content, digest_size=16).hexdigest()
        return self.pool.setdefault(name, ImageRef(content, name))

    def row(
        self, index: str | int, images: tuple[ImageRef, ...], cells: Mapping[str, str]
    ) -> BenchmarkRow:
        """The row of this record; empty cells are left out."""
        filled = {name: text for name, text in cells.items() if text}
        return BenchmarkRow(str(index), images, filled, self.source)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A form in which a benchmark is published.

    Attributes:
        name: for messages, e.g. "official JSON".
        files: patterns of its files, relative to the folder of the data.
        fields: that every record must have; they tell layouts with the same file names apart.
        records: the records of a file.
        row: the row of a record; None leaves it out, e.g. a question about a video.
        index: the field that tells rows apart, for errors.
        names: the field names of a file whose first record takes long to read.
    """

    name: str
    files: tuple[str, ...]
    fields: tuple[str, ...]
    records: Callable[[Path], Iterable[RawRecord]]
    row: Callable[[FileRecord], BenchmarkRow | None]
    index: str = "index"
    names: Callable[[Path], Iterable[str]] | None = None

    def find_files(self, folder: Path) -> list[Path]:
        """Its files in a folder, in the order of their names."""
        return sorted({path for pattern in self.files for path in folder.glob(pattern)})

    def missing_field(self, file: Path) -> str | None:
        """The first of `fields` that the first record of a file lacks; None if it has all.

        Raises:
            UserError: the file cannot be read, or has no record.
        """
        if self.names is not None:
            found = set(self.names(file))
        else:
            first = next(iter(self.records(file)), None)
            if first is None:
                raise UserError(f"{file}: no rows. Expected those of a benchmark.")
            found = set(first.fields)
        return next((name for name in self.fields if name not in found), None)

    def rows(self, files: Sequence[Path]) -> Iterator[BenchmarkRow]:
        """The rows of its files.

        Raises:
            UserError: a record is not as the layout has it; names file, row and field.
        """
        pool: dict[str, ImageRef] = {}
        number = 0
        for file in files:
            for place, fields in self.records(file):
                record = FileRecord(file, place, fields, number, pool)
                missing = next((name for name in self.fields if name not in fields), None)
                if missing is not None:
                    raise record.fail(missing, f"a field of its {self.name}")
                row = self.row(record)
                number += 1
                if row is not None:
                    yield row
