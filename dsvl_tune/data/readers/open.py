"""Where rows come from: a file, several, a folder or a hub name, opened without reading them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from glob import glob
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers.arrow import is_saved, named_files, open_arrow, open_named, open_parquet
from dsvl_tune.data.readers.indexed_file import open_csv, open_json, open_lines, open_tar


class Part(Protocol):
    """The rows of one file or table: `byte_rows.ByteRows` or `table_rows.TableRows`."""

    @property
    def identity(self) -> str:
        """Another one if the rows are others."""

    @property
    def checksum(self) -> int:
        """Another one if the rows are others, the same wherever the file lies."""

    @property
    def file_name(self) -> str:
        """A name for a file that `write` makes."""

    @property
    def root(self) -> Path:
        """Where image paths start from."""

    def __len__(self) -> int: ...

    def source(self, index: int) -> str:
        """File and row."""

    def row(self, index: int) -> Any:
        """A row's value."""

    def write(self, kept: Sequence[int], path: Path) -> None:
        """A file of the same kind with some of the rows."""


# How a file's name ends -> what opens it.
ENDINGS: dict[str, Callable[[Path], Part]] = {
    ".jsonl": open_lines,
    ".ndjson": open_lines,
    ".json": open_json,
    ".csv": open_csv,
    ".tsv": open_csv,
    ".parquet": open_parquet,
    ".arrow": open_arrow,
    ".feather": open_arrow,
    ".tar": open_tar,
}
TABLES = (".parquet", ".arrow", ".feather")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)?")


class Rows:
    """The rows of all parts, one after another."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self.ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self.ends[-1]

    @property
    def checksum(self) -> int:
        """CRC-32 over the parts' checksums."""
        return crc32(repr([part.checksum for part in self.parts]).encode())

    def locate(self, index: int) -> tuple[Part, int]:
        """The part that holds a row, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self.ends, index)
        return self.parts[part], index - (self.ends[part] - len(self.parts[part]))


def open_rows(name: str) -> Rows:
    """The rows that a recipe names.

    Args:
        name: a file, a pattern of files (`shards/*.tar`, in the order of their names), a folder that Hugging Face
            datasets reads, or a name on its hub, `owner/name` or `owner/name/config`. Folders and hub names may end in
            `#SPLIT`; without it the split is train.

    Raises:
        UserError: nothing of the kind is there, its ending is unknown, or it holds no rows.
    """
    whole, _, split = name.partition("#")
    path = Path(whole).expanduser()
    if path.is_dir():
        parts = open_folder(path, split or "train")
    elif re.search(r"[*?\[]", name) and not Path(name).exists():
        parts = [open_file(Path(found)) for found in sorted(glob(str(Path(name).expanduser())))]
        if not parts:
            raise UserError(f"{name}: cannot be read: no file is named so. Check the pattern.")
    elif HUB_NAME.fullmatch(whole) and not path.exists() and path.suffix.lower() not in ENDINGS:
        parts = [open_named(whole, split or "train")]
    else:
        parts = [open_file(Path(name).expanduser())]
    rows = Rows(parts)
    if not len(rows):
        raise UserError(f"{name}: no rows. Expected at least one conversation.")
    return rows


def open_folder(path: Path, split: str) -> list[Part]:
    """Saved sets, image folders and parquet by datasets; text and tars file by file.

    datasets would make numbers, nulls and dates of text ("007" and "NA" in CSV, "2020-01-01" in JSON).
    """
    if not is_saved(path):
        files = [Path(file) for file in named_files(str(path), split)]
        if all(
            file.suffix.lower() in ENDINGS and file.suffix.lower() not in TABLES for file in files
        ):
            return [open_file(file) for file in files]
    return [open_named(str(path), split)]


def open_file(path: Path) -> Part:
    """One file by its name's ending."""
    opener = ENDINGS.get(path.suffix.lower())
    if opener is None:
        raise UserError(
            f"{path}: its name ends in {path.suffix or 'nothing'!r}. Expected one of {', '.join(ENDINGS)}, a folder, "
            "or a name on the Hugging Face hub (owner/name)."
        )
    return opener(path)
