"""Damaged data: rows of each layout, text files, tars and tables."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import re
import sys
import tarfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from damage import damage_bytes, damage_value, places
from frame import Case, Kind
from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.conversations import ConversationRows, open_conversations
from dsvl_tune.data.formats.image_refs import ImageSource
from dsvl_tune.data.formats.registry import FORMATS, read_row
from dsvl_tune.data.images.load import load_image
from dsvl_tune.data.validation.row_stats import RowInspector
from dsvl_tune.families import open_checkpoint

sys.path.append(str(Path(__file__).parents[1] / "unit" / "data"))
from published_shapes import SHAPES

KEYS = [
    *("image", "images", "Images", "image_1", "file_name", "videos", "audio", "objects", "system"),
    *("messages", "conversations", "role", "from", "content", "value", "weight", "loss", "texts"),
    *("question", "answer", "answers", "label", "choices", "options", "query", "history", "A"),
    *("prompt", "completion", "caption", "kind", "question_type", "type", "text", "source"),
]
Result = list[Conversation | str]
"""Of each row the conversation, or the message of its error."""


@cache
def processor() -> Processor:
    """The processor of the model that the package brings."""
    return open_checkpoint("embedded").processor


@cache
def picture(kind: str = "PNG", size: int = 9) -> bytes:
    """An encoded picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size + 1), (200, size, 9)).save(buffer, kind)
    return buffer.getvalue()


# Rows


def mutated_row(folder: Path, chance: Random) -> Case:
    """One row of a published layout with a value changed, read by any format."""
    (folder / "a.png").write_bytes(picture())
    row = damage_value(chance.choice(list(SHAPES.values()))[1], KEYS, chance)
    format = chance.choice(["auto", "auto", "auto", *FORMATS])

    def act() -> object:
        conversation = read_row(row, "rows:1", ImageSource(folder), format)
        return RowInspector(processor())([conversation])

    return Case(partial(naming, act, "rows:1"))


def moved_picture(folder: Path, chance: Random) -> Case:
    """A row whose images were put under another key: an error, or they are shown all the same."""
    names = [name for name in SHAPES if name not in ("swift messages", "label studio")]
    row = copy.deepcopy(SHAPES[chance.choice(names)][1])
    allowed = ImageSource(folder)
    count = len(read_row(row, "rows:1", allowed).images)
    holders = [
        (path[:-1], path[-1])
        for path in places(row)
        if path and isinstance(path[-1], str) and re.search("image|img|source|url", path[-1])
    ]
    if holders:
        path, key = chance.choice(holders)
        holder = row
        for part in path:
            holder = holder[part]
        odd = "".join(chance.choices("abcdefgh_A1é ", k=5))
        value = holder.pop(key)
        holder[chance.choice([one for one in (*KEYS, odd, odd) if one not in holder])] = value

    def act() -> object:
        return read_row(row, "rows:1", allowed)

    def check(result: object) -> None:
        assert isinstance(result, Conversation)
        assert len(result.images) >= count, f"{len(result.images)} of {count} images are shown"

    return Case(partial(naming, act, "rows:1"), check)


def naming(act: Callable[[], object], place: str) -> object:
    """The result of `act`, whose error must begin with a place."""
    try:
        return act()
    except UserError as error:
        if not str(error).startswith(place) and "data.format" not in str(error):
            raise AssertionError(f"the message does not begin with {place}: {error}") from error
        raise


# Files


def small_rows(chance: Random) -> list[dict[str, Any]]:
    """Rows that fit any kind of file."""
    count = chance.randint(1, 12)
    return [{"question": f"Is it {i}?\n", "answer": f"Yes, {i}."} for i in range(count)]


def read_both_ways(path: Path) -> tuple[Result, Result]:
    """The rows of an opened file, and of the same file as a stream.

    What cannot be opened must not be streamed to its end either.
    """
    try:
        opened = read_rows(ConversationRows(open_conversations(str(path))))
    except UserError:
        if path.suffix not in (".arrow", ".feather"):
            try:
                rows = read_rows(ConversationRows(open_conversations(str(path), stream_seed=1)))
            except UserError:
                raise
            if not any(isinstance(row, str) for row in rows):
                assert not rows, "streamed to its end, though it cannot be opened"
        raise
    if path.suffix in (".arrow", ".feather"):
        return opened, opened
    return opened, read_rows(ConversationRows(open_conversations(str(path), stream_seed=1)))


def read_rows(rows: ConversationRows) -> Result:
    """What each row is, its images decoded.

    Raises:
        UserError: the file cannot be read to its end.
    """
    found: Result = []
    for key in rows.keys():  # noqa: SIM118  a data set yields its rows
        try:
            (conversation,) = rows[key]
            for ref in conversation.images:
                load_image(ref, conversation.source)
            found.append(conversation)
        except UserError as error:
            found.append(str(error))
    return found


def same_rows(result: object, count: int | None = None) -> None:
    """Assert that both ways of reading agree, and how many rows there are."""
    opened, streamed = result  # type: ignore[misc]
    assert opened == streamed
    assert count is None or len(opened) == count, f"{len(opened)} rows, not {count}"


def text_file(folder: Path, chance: Random, ending: str) -> Case:
    """Rows of text, their bytes damaged."""
    rows = small_rows(chance)
    (folder / "a.png").write_bytes(picture())
    for row in chance.sample(rows, len(rows) // 2):
        row["image"] = "a.png"
    if ending == "json":
        content = json.dumps(rows, indent=chance.choice((None, 1)))
    elif ending == "jsonl":
        content = "\n".join(json.dumps(row) for row in rows)
    else:
        text = io.StringIO()
        delimiter = "," if ending == "csv" else "\t"
        writer = csv.DictWriter(text, ["question", "answer", "image"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue()
    path = folder / f"rows.{ending}"
    path.write_bytes(damage_bytes(content.encode(), chance))
    return Case(partial(read_both_ways, path), same_rows)


def gzipped_file(folder: Path, chance: Random) -> Case:
    """Streamed rows in a gzipped file, its bytes damaged: all rows, or an error."""
    rows = small_rows(chance)
    content = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    path = folder / "rows.jsonl.gz"
    path.write_bytes(damage_bytes(content, chance))

    def act() -> object:
        return read_rows(ConversationRows(open_conversations(str(path), stream_seed=1)))

    def check(result: object) -> None:
        # A copy of the whole behind itself is what gzip calls a file of two members.
        assert len(result) in (len(rows), 2 * len(rows))  # type: ignore[arg-type]

    return Case(act, check)


def tar_file(folder: Path, chance: Random) -> Case:
    """A WebDataset shard: bytes damaged anywhere, or one odd member added."""
    rows = small_rows(chance)
    buffer = io.BytesIO()
    formats = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    odd = chance.randrange(len(rows)) if chance.random() < 0.4 else -1
    with tarfile.open(fileobj=buffer, mode="w", format=chance.choice(formats)) as tar:
        for number, row in enumerate(rows):
            name = f"{number:03d}" if chance.random() < 0.8 else f"{'n' * 80}{number}"
            add(tar, f"{name}.png", picture())
            add(tar, f"{name}.json", json.dumps(row).encode())
            if number == odd:
                tar.addfile(odd_member(name, chance))
    content = buffer.getvalue()
    if odd < 0:
        content = damage_bytes(content, chance)
    path = folder / "rows.tar"
    path.write_bytes(content)
    # Zeros up to the end are a shorter tar that is whole; anything else must be noticed.
    is_whole = json.dumps(rows[-1]).encode() in content
    count = len(rows) if is_whole else None
    return Case(partial(read_both_ways, path), partial(same_rows, count=count))


def odd_member(name: str, chance: Random) -> tarfile.TarInfo:
    """The header of a link, device or pipe, or of a file with an impossible size."""
    member = tarfile.TarInfo(f"{name}.{chance.choice(('jpg', 'txt', 'x'))}")
    types = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"Z", b"V")
    member.type = chance.choice(types)
    targets = (f"{name}.png", f"{name}.jpg", "/etc/passwd", "../../x", "", "000.png", ".")
    member.linkname = chance.choice(targets)
    if chance.random() < 0.2:
        member.type = tarfile.REGTYPE
        member.pax_headers = {"size": chance.choice(("-512", "1" * 18, "x", "99999999999"))}
    return member


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def table_file(folder: Path, chance: Random, ending: str) -> Case:
    """A table with pictures in it, its bytes damaged."""
    rows: list[dict[str, Any]] = small_rows(chance)
    for row in rows:
        row["image"] = {"bytes": picture(), "path": None} if chance.random() < 0.5 else None
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("question", pa.string()), ("answer", pa.string()), ("image", image)]
    table = pa.Table.from_pylist(rows, pa.schema(fields))
    buffer = io.BytesIO()
    if ending == "parquet":
        pq.write_table(table, buffer, row_group_size=chance.choice((3, 100)))
    else:
        make = pa.ipc.new_stream if ending == "arrow" else pa.ipc.new_file
        with make(buffer, table.schema) as writer:
            writer.write_table(table, max_chunksize=chance.choice((2, 100)))
    path = folder / f"rows.{ending}"
    path.write_bytes(damage_bytes(buffer.getvalue(), chance))
    return Case(partial(read_both_ways, path), same_rows)


def saved_set(folder: Path, chance: Random) -> Case:
    """A data set as `Dataset.save_to_disk` writes it, one of its files damaged."""
    rows = small_rows(chance)
    place = folder / "saved"
    datasets.Dataset.from_list(rows).save_to_disk(str(place))
    path = chance.choice(sorted(place.iterdir()))
    path.write_bytes(damage_bytes(path.read_bytes(), chance))

    def act() -> object:
        return read_rows(ConversationRows(open_conversations(str(place))))

    return Case(act)


DATA_KINDS: dict[str, Kind] = {
    "rows": mutated_row,
    "moved_pictures": moved_picture,
    "jsonl": partial(text_file, ending="jsonl"),
    "json": partial(text_file, ending="json"),
    "csv": partial(text_file, ending="csv"),
    "tsv": partial(text_file, ending="tsv"),
    "gzipped": gzipped_file,
    "tar": tar_file,
    "parquet": partial(table_file, ending="parquet"),
    "arrow": partial(table_file, ending="arrow"),
    "feather": partial(table_file, ending="feather"),
    "saved": saved_set,
}
"""Name of a kind -> what makes its cases."""
