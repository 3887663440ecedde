"""Names in recipes to readers: files, patterns of files, folders, hub names and URLs."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from glob import glob
from itertools import accumulate
from pathlib import Path
from typing import Any
from zlib import crc32

import fsspec

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers.base import Record, RowFile
from dsvl_tune.data.readers.file_formats import (
    COMPRESSED,
    FORMATS,
    file_ending,
    file_format,
    refuse_compressed,
    stream_format,
)
from dsvl_tune.data.readers.stream import Stream
from dsvl_tune.data.readers.tables import is_saved, named_files, open_named

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)?")
WILDCARD = re.compile(r"[*?\[]")


class OpenedFiles:
    """The rows of several opened files, one file after another.

    Args:
        name: what errors call them.
        files: the files.
    """

    def __init__(self, name: str, files: Sequence[RowFile]) -> None:
        self.name = name
        self.files = files
        self.ends = list(accumulate(len(file) for file in files))

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self.ends[-1]

    @property
    def identity(self) -> str:
        """The files' identities."""
        return repr([file.identity for file in self.files])

    @property
    def checksum(self) -> int:
        """CRC-32 over the files' checksums."""
        return crc32(repr([file.checksum for file in self.files]).encode())

    def record(self, index: int) -> Record:
        """The row of that number.

        Raises:
            IndexError: there is no such row.
        """
        if not 0 <= index < self.num_rows:
            raise IndexError(index)
        number = bisect_right(self.ends, index)
        file = self.files[number]
        return file.record(index - (self.ends[number] - len(file)))

    def iterate(self, start: int = 0) -> Iterator[Record]:
        """The rows from number `start` on."""
        return map(self.record, range(start, self.num_rows))


def open_rows(name: str) -> OpenedFiles:
    """The rows that a recipe names, opened without reading them.

    Args:
        name: a file; a pattern of files (`shards/*.tar`, in the order of their names); a folder
            that Hugging Face datasets reads; or a name on its hub, `owner/name` or
            `owner/name/config`. Folders and hub names may end in `#SPLIT`; without it the split
            is train.

    Raises:
        UserError: there is nothing of the kind, its ending is unknown, or it has no rows.
    """
    opened = OpenedFiles(name, open_files(name))
    if not opened.num_rows:
        raise UserError(f"{name}: no rows. Expected at least one conversation.")
    return opened


def open_files(name: str) -> list[RowFile]:
    """The files that a recipe names, as in `open_rows`."""
    whole, _, split = name.partition("#")
    path = Path(whole).expanduser()
    if path.is_dir():
        return open_folder(path, split or "train")
    if WILDCARD.search(name) and not Path(name).exists():
        found = sorted(glob(str(Path(name).expanduser())))
        if not found:
            raise UserError(f"{name}: cannot be read: no file has such a name. Check the pattern.")
        return [open_file(Path(file)) for file in found]
    if is_hub_name(whole) and file_ending(whole) not in FORMATS:
        return [open_named(whole, split or "train")]
    return [open_file(Path(name).expanduser())]


def open_folder(path: Path, split: str) -> list[RowFile]:
    """The files of a folder that datasets reads.

    Tables, image folders and saved data sets are opened by datasets; text and tars file by file,
    because datasets would turn text into numbers, nulls and dates.
    """
    if not is_saved(path):
        files = [Path(file) for file in named_files(str(path), split)]
        for file in files:
            if FORMATS.get(file_ending(file.stem)) is not None:  # .jsonl.gz and its like
                refuse_compressed(str(file))
        formats = [FORMATS.get(file_ending(str(file))) for file in files]
        if all(found is not None and not found.is_table for found in formats):
            return [open_file(file) for file in files]
    return [open_named(str(path), split)]


def open_file(path: Path) -> RowFile:
    """One file, by its name's ending."""
    return file_format(str(path)).open(path)


def open_stream(name: str, seed: int) -> Stream:
    """The rows that a recipe names, to be streamed.

    Args:
        name: as in `find_shards`.
        seed: seed of the stream's order.
    """
    return Stream(name, find_shards(name), seed)


def find_shards(name: str) -> list[str]:
    """The files that a recipe names for a stream, in the order of their names.

    Args:
        name: a file or a pattern of files, local or as a URL (hf://, s3://, https://, ...); a
            folder, or a hub name as in `open_rows`, whose files Hugging Face datasets finds.

    Raises:
        UserError: there are none, or they have a format that cannot be streamed.
    """
    whole, _, split = name.partition("#")
    path = Path(name).expanduser()
    if "://" in name:
        found = matching_files(name) if "*" in name else [name]
    elif WILDCARD.search(name) and not path.exists():
        found = matching_files(str(path))
    elif file_ending(name) in FORMATS or file_ending(name) in COMPRESSED:
        found = [str(path)]
    elif Path(whole).expanduser().is_dir() or HUB_NAME.fullmatch(whole):
        found = named_files(whole, split or "train")
    else:
        raise UserError(f"{name}: cannot be read: there is no such file or folder. Check the path.")
    if not found:
        raise UserError(f"{name}: cannot be read: no file has such a name. Check the pattern.")
    for shard in found:
        stream_format(shard)
    return found


def matching_files(pattern: str) -> list[str]:
    """Paths or URLs that match a pattern.

    Raises:
        UserError: the address cannot be read.
    """
    try:
        system, path = fsspec.url_to_fs(pattern)
        found: list[Any] = sorted(system.glob(path))
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{pattern}: cannot be read ({error}). Check the address.") from None
    return [system.unstrip_protocol(one) if "://" in pattern else one for one in found]


def is_hub_name(name: str) -> bool:
    """Whether a name is one on the Hugging Face hub rather than a path."""
    return HUB_NAME.fullmatch(name) is not None and not Path(name).expanduser().exists()


def is_remote(name: str) -> bool:
    """Whether the rows of a name are not on this machine: a URL or a hub name."""
    return "://" in name or is_hub_name(name.partition("#")[0])
