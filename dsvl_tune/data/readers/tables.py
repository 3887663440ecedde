"""Rows of tables: Arrow and parquet files, and what Hugging Face datasets reads by name.

An opened table is memory-mapped Arrow; datasets converts parquet once, into its own cache. A
streamed parquet file is read row group by row group.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers.base import Parse, Record, RowFile
from dsvl_tune.data.readers.checksum import buffers_checksum, file_checksum

ROW_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".tar")
"""Endings of files that hold rows."""
OTHER_JSON = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that datasets writes about a data set."""
FILE_MAGIC = b"ARROW1"
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
"""How Arrow's two formats begin and end (arrow.apache.org/docs/format/Columnar.html)."""
ROWS_PER_BATCH = 100
"""Rows of a record batch that `TableRows.write` makes; one batch per row would cost much more."""


@dataclass(frozen=True)
class TableRows:
    """The rows of one table. Image columns stay as they are stored: bytes and path, not decoded.

    Attributes:
        name: the file, folder or hub name, for errors.
        table: slices of it are Arrow tables.
        root: folder that image paths are relative to by default.
        identity: cache key of the rows.
        path: the file that holds them, if they are a local file.
    """

    name: str
    table: Any
    root: Path
    identity: str
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.table)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.table)

    @property
    def files(self) -> Sequence[RowFile]:
        """This table."""
        return (self,)

    @property
    def file_name(self) -> str:
        """The last part of the name, ending in .arrow."""
        return f"{Path(self.name.partition('#')[0]).stem}.arrow"

    @property
    def checksum(self) -> int:
        """Of the file, or of the table's content; of a large one as `readers.checksum` says."""
        if self.path is not None:
            return file_checksum(self.path)
        table = self.table.data
        return crc32(str(len(self)).encode(), buffers_checksum(table.to_batches(), table.nbytes))

    def record(self, index: int) -> Record:
        """The row of that number."""
        source = f"{self.name}: row {index + 1}"
        with table_errors(source):
            (row,) = checked_rows(self.table[index : index + 1])
        return Record(row, without_nulls, source, self.root)

    def iterate(self, start: int = 0) -> Iterator[Record]:
        """The rows from number `start` on."""
        return map(self.record, range(start, len(self)))

    def write(self, indices: Sequence[int], path: Path) -> None:
        """Write an Arrow file (IPC stream, as datasets writes it) with some of the rows."""
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_stream(file, self.table[0:1].schema) as writer,
        ):
            for start in range(0, len(indices), ROWS_PER_BATCH):
                batch = indices[start : start + ROWS_PER_BATCH]
                rows = [self.table[index : index + 1] for index in batch]
                writer.write_table(pa.concat_tables(rows).combine_chunks())


@contextmanager
def table_errors(source: str) -> Iterator[None]:
    """Turn what Arrow raises on damaged content into one message.

    Args:
        source: file and row, for the error.

    Raises:
        UserError: Arrow raised an error.
    """
    try:
        yield
    except (pa.ArrowException, ValueError, OverflowError, OSError, SystemError) as error:
        raise UserError(f"{source}: damaged ({error}). Write the file again.") from None


def checked_rows(table: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a few rows' table, none of which points outside its buffers.

    Args:
        table: as it was mapped or decoded; Arrow itself checks nothing while it reads.
    """
    table.validate(full=True)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def without_nulls(row: dict[str, Any], source: str) -> dict[str, Any]:
    """A table's row without the columns that are null in it."""
    return {key: value for key, value in row.items() if value is not None}


class RecordBatches:
    """The record batches of an Arrow file as one table; slices may not cross a batch's end."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self.batches = batches
        self.ends = list(accumulate(batch.num_rows for batch in batches))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, rows: slice) -> pa.Table:
        number = bisect_right(self.ends, rows.start)
        batch = self.batches[number]
        start = rows.start - (self.ends[number] - batch.num_rows)
        return pa.Table.from_batches([batch.slice(start, rows.stop - rows.start)])


def open_arrow(path: Path) -> TableRows:
    """The rows of an Arrow file in the stream or the file format (Feather), memory-mapped.

    Raises:
        UserError: the file cannot be read, or is not an Arrow file.
    """
    try:
        source = pa.memory_map(str(path))
        batches = record_batches(source)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not an Arrow file that can be read ({error}).") from None
    status = path.stat()
    identity = f"{path.resolve()}{status.st_size} {status.st_mtime_ns}"
    return TableRows(str(path), RecordBatches(batches), path.parent, identity, path)


def record_batches(source: pa.NativeFile) -> list[pa.RecordBatch]:
    """The record batches of an Arrow file, in either format.

    Raises:
        pa.ArrowInvalid: it is in neither, or a stream ends without its end marker.
    """
    if source.read(len(FILE_MAGIC)) == FILE_MAGIC:
        file = pa.ipc.open_file(source)
        return [file.get_batch(number) for number in range(file.num_record_batches)]
    source.seek(0)
    batches = list(pa.ipc.open_stream(source))
    end = source.tell()
    source.seek(max(end - len(END_OF_STREAM), 0))
    if source.read(len(END_OF_STREAM)) != END_OF_STREAM or end < source.size():
        raise pa.ArrowInvalid(f"cut, or no end marker, at byte {end:,} of {source.size():,}")
    return batches


def open_parquet(path: Path) -> TableRows:
    """The rows of a parquet file; datasets converts it once, into its cache of Arrow files.

    Raises:
        UserError: the file cannot be read.
    """
    if not path.is_file():
        raise UserError(f"{path}: cannot be read: no such file. Check the path.")
    table = load("parquet", str(path), data_files=str(path), split="train")
    return TableRows(str(path), table, path.parent, table._fingerprint, path)


def stream_parquet(
    file: BinaryIO, path: str, start: int
) -> Iterator[tuple[dict[str, Any], Parse, str]]:
    """The rows of a parquet file from number `start` on; row groups before it are not read.

    Args:
        file: the parquet file.
        path: its name, for errors.
        start: rows to skip.
    """
    table = pq.ParquetFile(file)
    first = 0
    for group in range(table.num_row_groups):
        end = first + table.metadata.row_group(group).num_rows
        if end > start:
            skipped = max(start - first, 0)
            rows = group_rows(table, group, path)
            for number, row in enumerate(islice(rows, skipped, None), start=first + skipped + 1):
                yield row, without_nulls, f"{path}: row {number}"
        first = end


def group_rows(table: pq.ParquetFile, group: int, path: str) -> Iterator[dict[str, Any]]:
    """The rows of one row group.

    Raises:
        UserError: they are damaged, or fewer than the file says.
    """
    rows = 0
    for batch in table.iter_batches(batch_size=64, row_groups=[group]):
        rows += batch.num_rows
        with table_errors(f"{path}: row group {group + 1}"):
            found = checked_rows(batch)
        yield from found
    expected = table.metadata.row_group(group).num_rows
    if rows != expected:
        raise UserError(
            f"{path}: row group {group + 1} has {rows:,} of {expected:,} rows. Write the file "
            "again."
        )


def open_named(name: str, split: str) -> TableRows:
    """A folder or hub name that datasets reads: saved data sets, image folders, folders of parquet.

    Args:
        name: the folder, or `owner/name` or `owner/name/config` on the hub.
        split: one of its splits.

    Raises:
        UserError: datasets cannot read it, or it has no such split.
    """
    folder = Path(name).expanduser()
    label = f"{name}#{split}"
    if not folder.is_dir():
        path, _, config = hub_name(name)
        table = load(path, name, config or None, split=split)
        return TableRows(label, table, Path(), table._fingerprint)
    if is_saved(folder):
        table = load_saved(folder, name, split)
        return TableRows(label, table.with_format("arrow"), folder, table._fingerprint)
    # The whole path: datasets would take "csv" alone for its own loader of that name.
    table = load(str(folder.resolve()), name, split=split)
    return TableRows(label, table, folder, table._fingerprint)


def is_saved(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` wrote the folder."""
    return any((folder / file).is_file() for file in ("state.json", "dataset_dict.json"))


def load_saved(folder: Path, name: str, split: str) -> Any:
    """The `Dataset` that was saved to a folder.

    Raises:
        UserError: it cannot be read, or has no such split.
    """
    from datasets import DatasetDict, load_from_disk

    with datasets_errors(name):
        saved = load_from_disk(str(folder))
    if not isinstance(saved, DatasetDict):
        return saved
    if split not in saved:
        raise unknown_split(name, split, list(saved))
    return saved[split]


def named_files(name: str, split: str) -> list[str]:
    """The files of a folder or hub name as datasets finds them; none is downloaded.

    Raises:
        UserError: datasets finds none, or there is no such split.
    """
    from datasets import load_dataset_builder

    folder = Path(name).expanduser()
    path, config = str(folder.resolve()), ""
    if not folder.is_dir():
        path, _, config = hub_name(name)
    with datasets_errors(name):
        files = load_dataset_builder(path, config or None).config.data_files or {}
    if split not in files:
        raise unknown_split(name, split, list(map(str, files)))
    if folder.is_dir():
        refuse_left_out(folder, {str(file) for listed in files.values() for file in listed})
    return [str(file) for file in files[split]]


def refuse_left_out(folder: Path, read: Collection[str]) -> None:
    """Raise if datasets leaves out a file of rows: of a mixed folder it reads one kind of files.

    Args:
        folder: what it reads.
        read: the files of all splits that it found.

    Raises:
        UserError: with the first file that is left out.
    """
    root = folder.resolve()
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        is_hidden = any(part.startswith((".", "__")) for part in parts)
        if path.suffix.lower() not in ROW_ENDINGS or is_hidden or not path.is_file():
            continue
        if str(path) not in read and path.name not in OTHER_JSON:
            raise UserError(
                f"{folder}: holds {path.relative_to(root)}, too, which would be left out: of a "
                "folder with several kinds of files one kind is read. Name the files by a pattern, "
                f"e.g. {folder}/*{path.suffix}."
            )


def unknown_split(name: str, split: str, known: Sequence[str]) -> UserError:
    """The error for a split that a folder or hub name does not have."""
    return UserError(
        f"{name}: no split {split!r}. It has {', '.join(known)}; name one as {name}#SPLIT."
    )


def load(path: str, name: str, config: str | None = None, **options: Any) -> Any:
    """`datasets.load_dataset` in Arrow format.

    Args:
        path: what datasets loads.
        name: what errors call it.
        config: the data set's configuration.
        **options: passed on.
    """
    from datasets import load_dataset

    with datasets_errors(name):
        return load_dataset(path, config, **options).with_format("arrow")


@contextmanager
def datasets_errors(name: str) -> Iterator[None]:
    """Turn whatever datasets raises into one message.

    Raises:
        UserError: datasets raised an error.
    """
    from datasets.exceptions import DatasetsError

    known = (OSError, ValueError, LookupError, RuntimeError, EOFError, zlib.error)
    errors = (*known, TypeError, AttributeError, AssertionError)  # of files about a data set
    try:
        yield
    except (DatasetsError, pa.ArrowException, *errors) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(
            f"{name}: datasets cannot read it ({type(error).__name__}: {reason})."
        ) from None


def hub_name(name: str) -> tuple[str, str, str]:
    """owner/name/config -> (owner/name, /, config)."""
    owner, _, rest = name.partition("/")
    title, slash, config = rest.partition("/")
    return f"{owner}/{title}", slash, config
