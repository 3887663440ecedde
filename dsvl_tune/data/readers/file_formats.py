"""The formats of files: how each is opened, and how it is streamed."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers.base import Parse, RowFile
from dsvl_tune.data.readers.indexed_file import open_indexed
from dsvl_tune.data.readers.lines import scan_csv, scan_json, scan_json_lines
from dsvl_tune.data.readers.row_scan import Scan, byte_blocks
from dsvl_tune.data.readers.tables import open_arrow, open_parquet, stream_parquet
from dsvl_tune.data.readers.webdataset import open_tar, stream_tar

STREAM_BLOCK_BYTES = 1 << 20
"""Bytes of a shard that are read at a time."""
Found = Iterator[tuple[Any, Parse, str]]
"""Content, parser and source of each row, as in `Record`."""


class FileFormat(NamedTuple):
    """How files with one ending are read.

    Attributes:
        open: the file's rows by number.
        stream: the rows of an open binary file with that name, one after another, from a number on;
            None for a format that is only opened.
        is_table: whether values have types, so that datasets does not change them.
    """

    open: Callable[[Path], RowFile]
    stream: Callable[[BinaryIO, str, int], Found] | None
    is_table: bool = False


def byte_format(scan: Scan) -> FileFormat:
    """A format whose rows are ranges of bytes."""
    return FileFormat(partial(open_indexed, scan=scan), partial(stream_rows, scan=scan))


def stream_rows(file: BinaryIO, path: str, start: int, scan: Scan) -> Found:
    """The rows of a shard from number `start` on.

    Args:
        file: the shard.
        path: its name, for errors.
        start: rows to skip; they are not parsed.
        scan: finds the rows of its format.
    """
    rows = scan(byte_blocks(file, STREAM_BLOCK_BYTES), path)
    for number, content in islice(rows.rows(), start, None):
        yield content, rows.layout.parse, rows.layout.source(path, number)


FORMATS: dict[str, FileFormat] = {
    ".jsonl": byte_format(scan_json_lines),
    ".ndjson": byte_format(scan_json_lines),
    ".json": byte_format(scan_json),
    ".csv": byte_format(partial(scan_csv, delimiter=",")),
    ".tsv": byte_format(partial(scan_csv, delimiter="\t")),
    ".tar": FileFormat(open_tar, stream_tar),
    ".parquet": FileFormat(open_parquet, stream_parquet, is_table=True),
    ".arrow": FileFormat(open_arrow, None, is_table=True),
    ".feather": FileFormat(open_arrow, None, is_table=True),
}
"""Ending of a file's name -> its format."""


GZIPPED = {".gz": "", ".tgz": ".tar"}
"""Ending of a gzipped file's name -> the ending of what is in it, "" if the name has that too."""

COMPRESSED = (*GZIPPED, ".bz2", ".xz", ".zst", ".lz4", ".zip", ".7z", ".rar")
"""Endings of compressed files: rows in them cannot be read by number. Gzipped ones are streamed."""


def file_format(path: str) -> FileFormat:
    """The format of a file, by its name's ending.

    Args:
        path: a local path or a URL.

    Raises:
        UserError: no format has that ending.
    """
    ending = file_ending(path)
    refuse_compressed(path)
    if ending not in FORMATS:
        raise UserError(
            f"{path}: its name ends in {ending or 'nothing'!r}. Expected one of "
            f"{', '.join(FORMATS)}, a folder, or a name on the Hugging Face hub (owner/name)."
        )
    return FORMATS[ending]


def stream_format(path: str) -> Callable[[BinaryIO, str, int], Found]:
    """What streams a shard, by its name's ending.

    Args:
        path: a local path or a URL.

    Raises:
        UserError: no format that can be streamed has that ending.
    """
    ending = file_ending(path)
    if ending in GZIPPED:
        return _stream_gzipped(path)
    refuse_compressed(path)
    stream = FORMATS[ending].stream if ending in FORMATS else None
    if stream is None:
        known = ", ".join(name for name, known in FORMATS.items() if known.stream is not None)
        raise UserError(
            f"{path}: its name ends in {ending or 'nothing'!r}. Streamed are {known} files."
        )
    return stream


def _stream_gzipped(path: str) -> Callable[[BinaryIO, str, int], Found]:
    """What streams a gzipped shard: as its content is streamed, and to the end that gzip says."""
    inner = path.partition("?")[0].removesuffix(Path(path.partition("?")[0]).suffix)
    ending = GZIPPED[file_ending(path)] or file_ending(inner)
    known = FORMATS.get(ending)
    if known is None or known.stream is None or known.is_table:
        raise UserError(
            f"{path}: expected text or a tar in a gzipped file (.jsonl.gz, .csv.gz, .tar.gz)."
        )
    stream = known.stream

    def unzipped(file: BinaryIO, name: str, start: int) -> Found:
        if not file.read(1):
            raise EOFError("it is empty")
        file.seek(0)
        with gzip.GzipFile(fileobj=file) as content:
            yield from stream(cast(BinaryIO, content), name, start)
            while content.read(STREAM_BLOCK_BYTES):  # checks the checksum of all
                pass

    return unzipped


def refuse_compressed(path: str) -> None:
    """Raise if a file is compressed, by its name."""
    if file_ending(path) in COMPRESSED:
        remedy = "Unpack it first"
        if file_ending(path) in GZIPPED:
            remedy += ", or stream it (data.streaming: true)"
        raise UserError(f"{path}: compressed files are not read by number. {remedy}.")


def file_ending(path: str) -> str:
    """The ending of a path's or URL's file name, in lower case with its dot; "" without one."""
    return Path(path.partition("?")[0] if "://" in path else path).suffix.lower()
