"""Rows of Arrow tables, memory-mapped: Arrow and parquet files, folders and names that Hugging Face datasets reads."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any
from zlib import crc32

import pyarrow as pa

from dsvl_tune.core.errors import UserError

WRITTEN = 100
"""Rows of a record batch that `write` makes: one costs what many do, and their pictures lie in memory together."""


class TableRows:
    """The rows of one table. Image columns stay as they are stored: bytes and path, not decoded.

    Args:
        name: the file, folder or hub name, for errors.
        table: slices of it are Arrow tables.
        root: where image paths start from unless told otherwise.
        identity: another one if the rows are others.
    """

    def __init__(self, name: str, table: Any, root: Path, identity: str) -> None:
        self.name, self.table, self.root, self.identity = name, table, root, identity

    def __len__(self) -> int:
        return len(self.table)

    @property
    def checksum(self) -> int:
        """CRC-32 of the number of rows and of bytes: the content is not read when it is opened."""
        return crc32(f"{len(self)} {getattr(self.table, 'data', self.table).nbytes}".encode())

    @property
    def file_name(self) -> str:
        """The name's last part, ending in .arrow."""
        return f"{Path(self.name.partition('#')[0]).stem}.arrow"

    def source(self, index: int) -> str:
        """File and row, as errors name them."""
        return f"{self.name}: row {index + 1}"

    def row(self, index: int) -> Any:
        """A row's columns, without those that are null in it."""
        (row,) = self.table[index : index + 1].to_pylist()
        return {key: value for key, value in row.items() if value is not None}

    def write(self, kept: Sequence[int], path: Path) -> None:
        """An Arrow file (IPC stream, as datasets writes it) with some of the rows."""
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_stream(file, self.table[0:1].schema) as writer,
        ):
            for start in range(0, len(kept), WRITTEN):
                rows = [self.table[index : index + 1] for index in kept[start : start + WRITTEN]]
                writer.write_table(pa.concat_tables(rows).combine_chunks())


class Batches:
    """The record batches of an Arrow file as one table of which slices inside a batch can be taken."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self.batches = batches
        self.ends = list(accumulate(batch.num_rows for batch in batches))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @property
    def nbytes(self) -> int:
        """Bytes of all batches."""
        return sum(batch.nbytes for batch in self.batches)

    def __getitem__(self, rows: slice) -> pa.Table:
        number = bisect_right(self.ends, rows.start)
        batch = self.batches[number]
        start = rows.start - (self.ends[number] - batch.num_rows)
        return pa.Table.from_batches([batch.slice(start, rows.stop - rows.start)])


def open_arrow(path: Path) -> TableRows:
    """An Arrow file in the stream or the file format (Feather), not copied."""
    try:
        source = pa.memory_map(str(path))
        try:
            batches = list(pa.ipc.open_stream(source))
        except pa.ArrowInvalid:
            file = pa.ipc.open_file(source)
            batches = [file.get_batch(number) for number in range(file.num_record_batches)]
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not an Arrow file that can be read ({error}).") from None
    status = path.stat()
    return TableRows(
        str(path),
        Batches(batches),
        path.parent,
        f"{path.resolve()}{status.st_size} {status.st_mtime_ns}",
    )


def open_parquet(path: Path) -> TableRows:
    """A parquet file; datasets unpacks it once into its cache of Arrow files, and maps that."""
    if not path.is_file():
        raise UserError(f"{path}: cannot be read: no such file. Check the path.")
    table = load("parquet", str(path), data_files=str(path), split="train")
    return TableRows(str(path), table, path.parent, table._fingerprint)


def open_named(name: str, split: str) -> TableRows:
    """A folder or hub name by datasets: saved sets, image folders, folders of parquet, `owner/name` or with `/config`.

    Raises:
        UserError: datasets cannot read it, or it has no such split.
    """
    from datasets import DatasetDict, load_from_disk

    folder = Path(name).expanduser()
    if not folder.is_dir():
        path, _, config = hub_name(name)
        table = load(path, name, config or None, split=split)
        return TableRows(f"{name}#{split}", table, Path(), table._fingerprint)
    if not is_saved(folder):
        table = load(
            str(folder.resolve()), name, split=split
        )  # "csv" alone would be datasets' own loader of that name
        return TableRows(f"{name}#{split}", table, folder, table._fingerprint)
    try:
        saved = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{name}: not a saved data set that can be read ({error}).") from None
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise UserError(
                f"{name}: no split {split!r}. It has {', '.join(saved)}; name one as {name}#SPLIT."
            )
        saved = saved[split]
    return TableRows(f"{name}#{split}", saved.with_format("arrow"), folder, saved._fingerprint)


def is_saved(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` made it."""
    return any((folder / file).is_file() for file in ("state.json", "dataset_dict.json"))


def named_files(name: str, split: str) -> list[str]:
    """The files of a folder or hub name, as datasets finds them; none of them is downloaded.

    Raises:
        UserError: datasets finds none, or there is no such split.
    """
    from datasets import load_dataset_builder

    folder = Path(name).expanduser()
    path, _, config = (str(folder.resolve()), "", "") if folder.is_dir() else hub_name(name)
    with telling(name):
        files = load_dataset_builder(path, config or None).config.data_files or {}
    if split not in files:
        raise UserError(
            f"{name}: no split {split!r}. It has {', '.join(map(str, files))}; name one as {name}#SPLIT."
        )
    return [str(file) for file in files[split]]


def load(path: str, name: str, config: str | None = None, **options: Any) -> Any:
    """datasets.load_dataset, giving Arrow tables."""
    from datasets import load_dataset

    with telling(name):
        return load_dataset(path, config, **options).with_format("arrow")


@contextmanager
def telling(name: str) -> Iterator[None]:
    """One message for whatever datasets raises."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (
        DatasetsError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        pa.ArrowException,
    ) as error:
        said = " ".join(str(error.__cause__ or error).split())
        raise UserError(
            f"{name}: datasets cannot read it ({type(error).__name__}: {said})."
        ) from None


def hub_name(name: str) -> tuple[str, str, str]:
    """owner/name/config -> (owner/name, /, config)."""
    owner, _, rest = name.partition("/")
    title, slash, config = rest.partition("/")
    return f"{owner}/{title}", slash, config
