"""The bytes of one row to its value: JSON and the records of text tables."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from io import StringIO
from typing import Any, NamedTuple

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.terminal import shorten

csv.field_size_limit(1 << 30)  # csv's own limit is smaller than an image as a data: URL


SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that is half of a pair, of which JSON's texts may have one alone."""


class CsvDialect(NamedTuple):
    """How the records of a table are written.

    Attributes:
        delimiter: stands between two fields.
        header: the first record, with the column names.
    """

    delimiter: str
    header: bytes


def text_of(content: bytes, source: str) -> str:
    """The text in UTF-8.

    Raises:
        UserError: it is in another encoding.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not UTF-8 ({error}). Save the file as UTF-8.") from None


def parse_json(content: bytes, source: str) -> Any:
    """The JSON value.

    Raises:
        UserError: it is not JSON, an object has a key twice, or a text is no Unicode.
    """
    check_pairs = partial(unique_keys, source=source)
    try:
        value = json.loads(text_of(content, source), object_pairs_hook=check_pairs)
    except (ValueError, RecursionError, MemoryError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(
            f"{source}: not JSON ({reason}). "
            "Expected a JSON array of rows, or one complete row per line (JSONL)."
        ) from None
    if SURROGATE.search(content):
        check_unicode(value, source)
    return value


def check_unicode(value: Any, source: str) -> None:
    """Raise on half of a surrogate pair, which JSON can escape and no encoding can write."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.start + 1]
        raise UserError(
            f"{source}: a text has {half!a}, half of a surrogate pair, as where a character "
            "was cut in two. Write the whole character, or leave it out."
        ) from None


def unique_keys(pairs: list[tuple[str, Any]], source: str) -> dict[str, Any]:
    """A JSON object; of a repeated key, json alone would silently keep the last value.

    Raises:
        UserError: a key is repeated.
    """
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    counts = Counter(name for name, _ in pairs)
    repeated = shorten(counts.most_common(1)[0][0], 80)
    raise UserError(f"{source}: the key {repeated!r} is repeated in one object. Keep one of them.")


def parse_csv(content: bytes, source: str, dialect: CsvDialect) -> dict[str, str]:
    """The record by column names; every value stays text ("007", "NA").

    Raises:
        UserError: column names are empty or repeated, the record has another number of fields, or a
            quote is not closed.
    """
    names = split_record(dialect.header, source, dialect.delimiter)
    check_columns(names, source)
    values = split_record(content, source, dialect.delimiter)
    if len(values) != len(names):
        raise UserError(
            f"{source}: {len(values)} fields, expected {len(names)} as in the first line. "
            f"Put a field that contains {dialect.delimiter!r} or a quote between double quotes, "
            "and double the quotes in it."
        )
    record = dict(zip(names, values, strict=True))
    if is_index(names, record):
        del record[""]
    return record


def is_index(names: Sequence[str], record: Mapping[str, str]) -> bool:
    """Whether the first column is the one that pandas writes without a name: numbers of rows."""
    return names[0] == "" and re.fullmatch(r"\d{0,18}", record[""]) is not None


def check_columns(names: Sequence[str], source: str) -> None:
    """Raise unless the columns of a table have different names.

    The first may have none: pandas writes its index so.
    """
    counts = Counter(names)
    repeated, times = counts.most_common(1)[0]
    if times > 1:
        raise UserError(
            f"{source}: the first line names the column {shorten(repeated, 80)!r} {times} times. "
            "Expected different names for all."
        )
    if "" in names[1:]:
        raise UserError(
            f"{source}: column {names.index('') + 1} has no name in the first line. Expected "
            "different names for all."
        )


def split_record(content: bytes, source: str, delimiter: str) -> list[str]:
    """The fields of one record.

    Raises:
        UserError: it is not one record of a text table.
    """
    text = StringIO(text_of(content, source), newline="")
    try:
        records = list(csv.reader(text, delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{source}: not CSV ({error}). Double the quotes inside a quoted field."
        ) from None
    if len(records) != 1:
        raise UserError(
            f"{source}: its quotes do not match ({len(records)} records in one). Double the quotes "
            "inside a quoted field."
        )
    return records[0]
