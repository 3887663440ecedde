"""Checksums of the files in a folder of shards, so that damage is seen before it is loaded."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from torch import distributed

from dsvl_tune.core.storage.files import write_json

CHECKSUMS = "checksums.json"
"""Name, size and CRC-32 of every other file that the ranks wrote."""


def write_checksums(folder: Path) -> None:
    """Write the checksums of all shards; every rank must call this and reads its own shards.

    Args:
        folder: on a file system that all ranks share.
    """
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    own = {name: _checksum(folder / name) for name in names[rank::ranks]}
    gathered: list[dict[str, tuple[int, int]]] = [{} for _ in range(ranks)]
    distributed.all_gather_object(gathered, own)
    if rank == 0:
        together = {name: found for part in gathered for name, found in part.items()}
        write_json(folder / CHECKSUMS, dict(sorted(together.items())))


def has_intact_shards(folder: Path) -> bool:
    """Whether every file that `checksums.json` lists is as it was written.

    A folder without the list was not written to its end, or by a version before 0.2.
    """
    try:
        listed = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        return all(
            Path(name).name == name and _checksum(folder / name) == tuple(found)
            for name, found in listed.items()
        )
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def _checksum(path: Path) -> tuple[int, int]:
    """Size in bytes and CRC-32 of a file."""
    size = value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            size += len(block)
            value = zlib.crc32(block, value)
    return size, value
