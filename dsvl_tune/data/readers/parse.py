"""The bytes of one row to its value: a JSON value, a CSV record, the members of a WebDataset sample."""

from __future__ import annotations

import csv
import json
import tarfile
from functools import partial
from io import BytesIO, StringIO
from typing import Any, NamedTuple

from dsvl_tune.core.errors import UserError

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm", "jp2")
"""Members of a tar whose names end so are images."""
csv.field_size_limit(1 << 30)  # of csv's own 131,072 characters a picture as a data: URL has more


class CsvDialect(NamedTuple):
    """What separates fields, and the first record with the column names."""

    delimiter: str
    header: bytes


def text_of(content: bytes, where: str) -> str:
    """The text in UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error}). Save the file as UTF-8.") from None


def parse_json(content: bytes, where: str) -> Any:
    """The value, or an error that says where it is not JSON, or which key an object has twice."""
    try:
        return json.loads(
            text_of(content, where), object_pairs_hook=partial(once_each, where=where)
        )
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where}: not JSON ({error}). Expected a list of rows (JSON) or one complete row a line (JSONL)."
        ) from None


def once_each(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    """A JSON object; of a key that comes twice, json alone would keep the last value and say nothing.

    Raises:
        UserError: a key comes twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise UserError(
            f"{where}: the key {twice!r} comes twice in one object. Keep the one that is meant."
        )
    return found


def parse_csv(content: bytes, where: str, dialect: CsvDialect) -> dict[str, str]:
    """The record by column names; every value stays the text that it is ("007", "NA").

    Raises:
        UserError: it has not as many fields as there are columns, or a quote is not closed.
    """
    names = split_record(dialect.header, where, dialect.delimiter)
    if len(set(names)) != len(names) or "" in names:
        raise UserError(
            f"{where}: the first line names the columns {names}. Expected different names for all."
        )
    values = split_record(content, where, dialect.delimiter)
    if len(values) != len(names):
        raise UserError(
            f"{where}: {len(values)} fields, expected {len(names)} as in the first line. Put a field that holds "
            f"{dialect.delimiter!r} or a quote between double quotes, and double the quotes in it."
        )
    return dict(zip(names, values, strict=True))


def split_record(content: bytes, where: str, delimiter: str) -> list[str]:
    """The fields of one record."""
    try:
        records = list(
            csv.reader(
                StringIO(text_of(content, where), newline=""), delimiter=delimiter, strict=True
            )
        )
    except csv.Error as error:
        raise UserError(
            f"{where}: not CSV ({error}). Double the quotes inside a quoted field."
        ) from None
    if len(records) != 1:
        raise UserError(
            f"{where}: a quote reaches over {len(records)} lines. Double the quotes inside a quoted field."
        )
    return records[0]


def parse_sample(content: bytes, where: str) -> dict[str, Any]:
    """The bytes of a WebDataset sample as a row."""
    return sample_row(sample_members(content, where), where)


def is_member(member: tarfile.TarInfo) -> bool:
    """Whether it is a file of a sample: not one that macOS adds (._NAME, .DS_Store, __MACOSX), nor hidden."""
    folder, _, base = member.name.rpartition("/")
    return member.isfile() and not base.startswith(".") and "__MACOSX" not in folder.split("/")


def sample_key(name: str) -> str:
    """What neighbouring members of a tar have in common if they are one sample: the name up to the first dot."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def sample_row(members: list[tuple[str, bytes]], where: str) -> dict[str, Any]:
    """The members of a WebDataset sample: json's keys, txt as `caption`, pictures as `images`, others as bytes.

    A json that names its pictures (LLaVA's `image`) means the members beside it, so those names are left out.
    """
    row: dict[str, Any] = {}
    images: list[bytes] = []
    for name, data in members:
        ending = name.rpartition("/")[2].partition(".")[2].lower()
        if ending.rpartition(".")[2] in IMAGE_ENDINGS:
            images.append(data)
        elif ending == "json":
            value = parse_json(data, f"{where}: {name}")
            row |= value if isinstance(value, dict) else {"conversation": value}
        else:
            row[ending] = text_of(data, f"{where}: {name}") if ending == "txt" else data
    if "txt" in row:
        row.setdefault("caption", row["txt"])
    if images:
        row = {key: value for key, value in row.items() if key not in ("image", "images")} | {
            "images": images
        }
    return row


def sample_members(content: bytes, where: str) -> list[tuple[str, bytes]]:
    """Name and content of every file of the sample, in order."""
    try:
        with tarfile.open(fileobj=BytesIO(content), mode="r:") as tar:
            members = [(m.name, tar.extractfile(m)) for m in tar if is_member(m)]
            return [(name, file.read()) for name, file in members if file is not None]
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{where}: damaged tar ({error}). Write the shard again.") from None
