"""One shard of a stream: a file here or far away whose rows are read one after another, from any row on.

The rows are those that `sources.open_rows` finds in the same file, with the same places in errors. The loaders of
Hugging Face datasets are not used for them: streaming, they turn text into numbers, nulls and dates ("007" and "NA" in
CSV, "2020-01-01" in JSON), and read every row that a resume passes over.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers.json_array import BOM
from dsvl_tune.data.readers.parse import (
    CsvDialect,
    is_member,
    parse_csv,
    parse_json,
    sample_key,
    sample_row,
)

Parse = Callable[[Any, str], Any]
Found = Iterator[tuple[Any, Parse, str]]
"""What a reader gives: a row as it lies in the file, what makes its value of that, and its place as errors name it."""


class Record(NamedTuple):
    """A row that was read and not parsed yet, so that a worker can do it."""

    content: Any
    parse: Parse
    source: str
    root: Path

    def value(self) -> Any:
        """The row's value.

        Raises:
            UserError: it is not what a file of this kind holds.
        """
        return self.parse(self.content, self.source)


def read_shard(path: str, skip: int = 0) -> Iterator[Record]:
    """The rows of a file from row number `skip` on.

    Args:
        path: a local path, or the URL of anything that fsspec opens (hf://, s3://, https://, ...).
        skip: rows to pass over. They are not parsed, and in parquet not read.

    Raises:
        UserError: it cannot be read to its end.
    """
    read = READERS[ending(path)]
    root = Path() if "://" in path else Path(path).parent
    try:
        with fsspec.open(path, "rb") as file:
            for content, parse, place in read(file, path, skip):
                yield Record(content, parse, place, root)
    except (OSError, ValueError, ImportError, tarfile.TarError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: cannot be read ({' '.join(str(error).split())}). Check it and its name."
        ) from None


def ending(path: str) -> str:
    """The file's ending, which says what reads it.

    Raises:
        UserError: no reader is for it.
    """
    found = Path(path.partition("?")[0] if "://" in path else path).suffix.lower()
    if found not in READERS:
        raise UserError(
            f"{path}: its name ends in {found or 'nothing'!r}. Streamed are {', '.join(READERS)} files."
        )
    return found


def read_lines(file: IO[bytes], path: str, skip: int) -> Found:
    """JSON lines; blank ones are passed over and counted."""
    for number, line in islice(not_blank(file), skip, None):
        if (
            number == 1
            and line.lstrip(BOM + b" \t\r\n")[:1] == b"["
            and path.lower().endswith(".json")
        ):
            raise UserError(
                f"{path}: a JSON list, which is read whole. Stream files with a row a line (JSONL)."
            )
        yield line, parse_json, f"{path}:{number}"


def read_csv(file: IO[bytes], path: str, skip: int, delimiter: str = ",") -> Found:
    """A table of text with its column names in the first record."""
    records = not_blank(whole_records(file))
    _, header = next(records, (0, b""))
    for number, record in islice(records, skip, None):
        yield (
            record,
            partial(parse_csv, dialect=CsvDialect(delimiter, header)),
            f"{path}: row {number - 1}",
        )


def read_tar(file: IO[bytes], path: str, skip: int) -> Found:
    """A WebDataset shard."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        samples = groupby(members(tar), key=lambda member: sample_key(member.name))
        for number, (_, sample) in islice(enumerate(samples, start=1), skip, None):
            files = [(member.name, tar.extractfile(member)) for member in sample]
            contents = [(name, found.read()) for name, found in files if found is not None]
            yield contents, sample_row, f"{path}: sample {number}"


def read_parquet(file: IO[bytes], path: str, skip: int) -> Found:
    """A parquet file, row group by row group."""
    table = pq.ParquetFile(file)
    first = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        start, first = first, first + rows
        if first > skip:
            batches = table.iter_batches(batch_size=64, row_groups=[group])
            found = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(
                islice(found, max(skip - start, 0), None), start=max(skip, start) + 1
            ):
                yield row, without_nulls, f"{path}: row {number}"


READERS: dict[str, Callable[[IO[bytes], str, int], Found]] = {
    ".jsonl": read_lines,
    ".ndjson": read_lines,
    ".json": read_lines,
    ".csv": read_csv,
    ".tsv": partial(read_csv, delimiter="\t"),
    ".parquet": read_parquet,
    ".tar": read_tar,
}


def without_nulls(row: dict[str, Any], where: str) -> dict[str, Any]:
    """A table's row without the columns that are null in it."""
    return {key: value for key, value in row.items() if value is not None}


def not_blank(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines that hold something, with their numbers from 1, without a byte order mark or the line's end."""
    for number, line in enumerate(lines, start=1):
        content = (line.removeprefix(BOM) if number == 1 else line).removesuffix(b"\n")
        if content.strip():
            yield number, content


def whole_records(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines joined where a newline stands between double quotes (RFC 4180)."""
    record = b""
    for line in lines:
        record += line
        if record.count(b'"') % 2 == 0:
            yield record
            record = b""
    if record:
        yield record


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files of a tar, one after another."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # else they pile up: tarfile's own advice for long archives
        if is_member(member):
            yield member
