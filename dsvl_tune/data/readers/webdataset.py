"""WebDataset shards: tars in which neighboring files named alike up to the first dot are a row."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.images.media import signature
from dsvl_tune.data.readers.base import Parse
from dsvl_tune.data.readers.checksum import file_checksum
from dsvl_tune.data.readers.indexed_file import IndexedFile, file_stamp, mapped
from dsvl_tune.data.readers.parse import parse_json, text_of
from dsvl_tune.data.readers.row_scan import RowLayout
from dsvl_tune.data.readers.tar_members import (
    END_OF_TAR,
    Links,
    Target,
    read_member,
    resolve_links,
    tar_members,
    without_links,
)

IMAGE_ENDINGS = (
    *("jpg", "jpeg", "jfif", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"),
    *("ppm", "jp2", "tga"),
)
"""Members whose names end so are images, whatever they hold; others are if they begin like one."""
Members = list[tuple[str, bytes]]
"""Name and content of each file of a sample."""


@dataclass(frozen=True)
class IndexedTar(IndexedFile):
    """The samples of an opened tar; the bytes of a sample with its headers are a tar again.

    Attributes:
        links: where the tar's links lead.
    """

    links: Links = field(default_factory=dict)

    @property
    def checksum(self) -> int:
        """As of a large file: its content up to a bound."""
        return file_checksum(self.path)

    def content(self, index: int) -> bytes:
        """The members of a sample, files in place of links."""
        content = super().content(index)
        if not self.links:
            return content
        whole = mapped(self.path, self.stamp)

        def read(target: Target) -> bytes:
            return whole[target.start : target.start + target.size]

        return without_links(content, int(self.spans[index, 0]), self.links, read)


def open_tar(path: Path) -> IndexedTar:
    """The samples of a tar; only headers are read.

    Raises:
        UserError: the file cannot be read, is damaged, or is not an uncompressed tar.
    """
    stamp = file_stamp(path)
    name = str(path)
    starts: list[int] = []
    links: Links = {}
    end = 0
    try:
        with path.open("rb") as file:
            for sample in tar_samples(tar_members(file, name), name):
                starts.append(sample[0].offset)
                end = max(end, *(after(member) for member in sample))
                if not links and not all(member.isfile() for member in sample):
                    with path.open("rb") as again:
                        links = resolve_links(again, name)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    stops = [*starts[1:], end]
    spans = [(start, stops[i], i + 1) for i, start in enumerate(starts)]
    layout = RowLayout(parse_tar, label=": sample ", after=END_OF_TAR)
    return IndexedTar(path, stamp, np.array(spans, dtype=np.int64).reshape(-1, 3), layout, links)


def after(member: tarfile.TarInfo) -> int:
    """Offset of the byte after a member's content."""
    size = member.size if member.isfile() else 0
    return member.offset_data + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def stream_tar(file: BinaryIO, path: str, start: int) -> Iterator[tuple[Members, Parse, str]]:
    """The samples of a tar from number `start` on, read one after another.

    Args:
        file: the tar.
        path: its name, for errors.
        start: samples to skip; their files are not read.
    """
    links: Links = {}
    samples = enumerate(tar_samples(tar_members(file, path), path), start=1)
    for number, sample in islice(samples, start, None):
        if not links and not all(member.isfile() for member in sample):
            links = resolve_links(file, path)
        members = [(member.name, read_member(file, member, path, links)) for member in sample]
        yield members, sample_row, f"{path}: sample {number}"


def tar_samples(
    members: Iterator[tarfile.TarInfo], path: str
) -> Iterator[Sequence[tarfile.TarInfo]]:
    """The headers of each sample's files.

    Args:
        members: of a tar.
        path: its name, for errors.

    Raises:
        UserError: files of a sample are not next to one another, or one is repeated: rows would be
            learned without their images.
    """
    seen: set[int] = set()
    for key, group in groupby(members, key=lambda member: sample_key(member.name)):
        sample = list(group)
        names = {member.name for member in sample}
        if hash(key) in seen or len(names) < len(sample):
            raise UserError(
                f"{path}: {sample[0].name[:200]}: its sample is in the tar a second time, or its "
                "files are not next to one another. Write the tar in the order of the names (tar "
                "--sort=name)."
            )
        seen.add(hash(key))
        yield sample


def sample_key(name: str) -> str:
    """What a sample's files have in common: folder, and base name up to the first dot."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def parse_tar(content: bytes, source: str) -> dict[str, Any]:
    """The row of a sample that is given as part of a tar.

    Raises:
        UserError: the tar is damaged, or a file of the sample is.
    """
    file = BytesIO(content + END_OF_TAR)
    members = [
        (member.name, read_member(file, member, source, {})) for member in tar_members(file, source)
    ]
    return sample_row(members, source)


def sample_row(members: Members, source: str) -> dict[str, Any]:
    """The row of a sample: keys of its json, txt as `caption`, images as `images`, others as bytes.

    Images that the json names (LLaVA's `image`) are the ones in the sample.

    Raises:
        UserError: the json or the text is damaged, or the json names other images.
    """
    row: dict[str, Any] = {}
    images: Members = []
    for name, data in members:
        ending = name.rpartition("/")[2].partition(".")[2].lower()
        where = f"{source}: {name}"
        found = signature(data)
        if ending.rpartition(".")[2] in IMAGE_ENDINGS or (found is not None and found.is_read):
            images.append((name, data))
        elif ending == "json":
            value = parse_json(data, where)
            row |= value if isinstance(value, dict) else {"conversation": value}
        else:
            row[ending or name] = text_of(data, where) if ending == "txt" else data
    if "txt" in row:
        row.setdefault("caption", row["txt"])
    if images:
        named = [row.pop(key, None) for key in ("image", "images")]
        row["images"] = in_named_order(images, named[0] or named[1], source)
    return row


def in_named_order(images: Members, named: Any, source: str) -> list[bytes]:
    """The images of a sample in the order in which its json names them.

    Args:
        images: name and content of each.
        named: the json's `image` or `images`; None if it has neither.
        source: of the sample.

    Raises:
        UserError: the json names another number of images.
    """
    contents = [data for _, data in images]
    names = named if isinstance(named, list) else [named]
    if named is None or not all(isinstance(name, str) for name in names):
        return contents
    by_base: Mapping[str, bytes] = {name.rpartition("/")[2]: data for name, data in images}
    bases = [name.rpartition("/")[2] for name in names]
    if all(base in by_base for base in bases):
        return [by_base[base] for base in bases]
    if len(names) != len(images):
        raise UserError(
            f"{source}: its json names {len(names)} image(s), but {len(images)} are in the sample. "
            "Put all of them into the sample, under the names that the json gives."
        )
    return contents
