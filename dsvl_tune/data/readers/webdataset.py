"""WebDataset shards: tars in which neighboring files named alike up to the first dot are a row."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from io import BytesIO
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.readers.base import Parse
from dsvl_tune.data.readers.indexed_file import IndexedFile, file_stamp, mapped
from dsvl_tune.data.readers.parse import parse_json, text_of
from dsvl_tune.data.readers.row_scan import RowLayout

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm", "jp2")
"""Members whose names end so are images."""
END_OF_TAR = bytes(2 * tarfile.BLOCKSIZE)
Members = list[tuple[str, bytes]]
"""Name and content of each file of a sample."""


@dataclass(frozen=True)
class IndexedTar(IndexedFile):
    """The samples of an opened tar; the bytes of a sample with its headers are a tar again."""

    @property
    def checksum(self) -> int:
        """CRC-32 of the first header of every sample: opening a tar does not read it whole."""
        content = mapped(self.path, self.stamp)
        headers = (content[start : start + tarfile.BLOCKSIZE] for start in self.spans[:, 0])
        return reduce(lambda found, header: crc32(header, found), headers, 0)


def open_tar(path: Path) -> IndexedTar:
    """The samples of a tar; only headers are read.

    Raises:
        UserError: the file cannot be read, or is not an uncompressed tar.
    """
    stamp = file_stamp(path)
    try:
        with tarfile.open(path, "r:") as tar:
            starts = [next(sample).offset for _, sample in tar_samples(tar)]
            ends = [*starts[1:], tar.offset]
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"{path}: cannot be read: not an uncompressed tar ({error}). "
            "Check the path; unpack a compressed tar first."
        ) from None
    spans = [(start, ends[i], i + 1) for i, start in enumerate(starts)]
    layout = RowLayout(parse_tar, label=": sample ", after=END_OF_TAR)
    return IndexedTar(path, stamp, np.array(spans, dtype=np.int64).reshape(-1, 3), layout)


def stream_tar(file: BinaryIO, path: str, start: int) -> Iterator[tuple[Members, Parse, str]]:
    """The samples of a tar from number `start` on, read one after another.

    Args:
        file: the tar.
        path: its name, for errors.
        start: samples to skip; their files are not read.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        samples = enumerate(tar_samples(tar), start=1)
        for number, (_, sample) in islice(samples, start, None):
            members = [(member.name, read_member(tar, member)) for member in sample]
            yield members, sample_row, f"{path}: sample {number}"


def tar_samples(tar: tarfile.TarFile) -> Iterator[tuple[str, Iterator[tarfile.TarInfo]]]:
    """Each sample with the headers of its files."""
    return groupby(tar_members(tar), key=lambda member: sample_key(member.name))


def tar_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar's files, one after another."""
    while (member := tar.next()) is not None:
        # Else they pile up: the advice of tarfile's documentation for long archives.
        tar.members.clear()  # type: ignore[attr-defined]
        if is_member(member):
            yield member


def is_member(member: tarfile.TarInfo) -> bool:
    """Whether it is a file of a sample: not hidden, nor added by macOS (._NAME, __MACOSX)."""
    folder, _, base = member.name.rpartition("/")
    return member.isfile() and not base.startswith(".") and "__MACOSX" not in folder.split("/")


def sample_key(name: str) -> str:
    """What a sample's files have in common: folder, and base name up to the first dot."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The content of a regular file of the tar."""
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def parse_tar(content: bytes, source: str) -> dict[str, Any]:
    """The row of a sample that is given as a tar.

    Raises:
        UserError: the tar is damaged, or a file of the sample is.
    """
    try:
        with tarfile.open(fileobj=BytesIO(content), mode="r:") as tar:
            members = [(member.name, read_member(tar, member)) for member in tar_members(tar)]
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{source}: damaged tar ({error}). Write the shard again.") from None
    return sample_row(members, source)


def sample_row(members: Members, source: str) -> dict[str, Any]:
    """The row of a sample: keys of its json, txt as `caption`, images as `images`, others as bytes.

    Images that the json names (LLaVA's `image`) are the ones in the sample, so its names are
    dropped.

    Raises:
        UserError: the json or the text is damaged.
    """
    row: dict[str, Any] = {}
    images: list[bytes] = []
    for name, data in members:
        ending = name.rpartition("/")[2].partition(".")[2].lower()
        where = f"{source}: {name}"
        if ending.rpartition(".")[2] in IMAGE_ENDINGS:
            images.append(data)
        elif ending == "json":
            value = parse_json(data, where)
            row |= value if isinstance(value, dict) else {"conversation": value}
        else:
            row[ending] = text_of(data, where) if ending == "txt" else data
    if "txt" in row:
        row.setdefault("caption", row["txt"])
    if images:
        row.pop("image", None)
        row["images"] = images
    return row
