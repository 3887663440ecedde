"""The records of the files that benchmarks are published in: JSON, JSON lines and parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers.parse import parse_json
from dsvl_tune.evaluation.benchmarks.layouts.base import RawRecord

KEY = "key of the entry"
"""Field of a record that is an entry of a JSON object: the name that it has there."""


def json_records(within: str = "") -> Callable[[Path], Iterator[RawRecord]]:
    """A reader of JSON files: a list of records, or an object of them by name.

    Args:
        within: name of the list in the file's object; "" if the file is the list itself.
    """

    def read(path: Path) -> Iterator[RawRecord]:
        content = parse_json(_read_bytes(path), str(path))
        if within:
            if not isinstance(content, dict) or within not in content:
                raise UserError(f"{path}: no field {within!r}. Expected an object with that list.")
            content = content[within]
        if isinstance(content, dict):
            for key, fields in content.items():
                place = f"entry {key[:80]!r}"
                yield RawRecord(place, {**_checked(fields, path, place), KEY: key})
            return
        if not isinstance(content, list):
            raise UserError(f"{path}: not a JSON list or object. Expected the benchmark's records.")
        for number, fields in enumerate(content, 1):
            yield RawRecord(f"row {number}", _checked(fields, path, f"row {number}"))

    return read


def json_line_records(path: Path) -> Iterator[RawRecord]:
    """The records of a file with one JSON object a line."""
    for number, line in enumerate(_read_bytes(path).splitlines(), 1):
        if line.strip():
            place = f"row {number}"
            content = parse_json(line, f"{path}, {place}")
            yield RawRecord(place, _checked(content, path, place))


def parquet_records(path: Path) -> Iterator[RawRecord]:
    """The records of a parquet file, row group by row group; images stay encoded."""
    import pyarrow as pa

    from dsvl_tune.data.readers.tables import stream_parquet

    try:
        with path.open("rb") as file:
            for number, (fields, _, _) in enumerate(stream_parquet(file, str(path), 0), 1):
                yield RawRecord(f"row {number}", fields)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a parquet file that can be read ({error}).") from None


def _read_bytes(path: Path) -> bytes:
    """Content of a file, without a byte order mark.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(f"{path}: could not be read ({error.strerror}).") from None


def _checked(fields: Any, path: Path, place: str) -> Mapping[str, Any]:
    """The fields of a record.

    Raises:
        UserError: it is no JSON object.
    """
    if not isinstance(fields, dict):
        raise UserError(f"{path}, {place}: not a JSON object. Expected a record of the benchmark.")
    return fields
