"""Checksums of files: by content where that is cheap, else by size and time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

MAX_BYTES = 1 << 30
"""Files up to this size together are read, which takes a second or two; of larger ones size and
modification time count. So a small data set may be copied to another machine."""
BLOCK_BYTES = 1 << 22


def file_checksum(path: Path) -> int:
    """Changes whenever the file does."""
    return files_checksum([path])


def files_checksum(paths: Iterable[Path]) -> int:
    """Changes whenever one of the files does, or is missing, or another one comes.

    Args:
        paths: in an order that does not change.
    """
    stats = [(path, stat(path)) for path in paths]
    is_cheap = sum(size for _, (size, _) in stats) <= MAX_BYTES
    found = 0
    for path, (size, modified) in stats:
        content = content_checksum(path) if is_cheap and size else modified
        found = crc32(f"{size} {content} ".encode(), found)
    return found


def stat(path: Path) -> tuple[int, int]:
    """Size and modification time in ns; (0, 0) of what is no file or cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def content_checksum(path: Path) -> int:
    """CRC-32 of a file's content; 0 of one that cannot be read."""
    found = 0
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                found = crc32(block, found)
    except OSError:
        return 0
    return found
