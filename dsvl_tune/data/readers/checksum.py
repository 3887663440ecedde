"""Checksums of files and tables: of their content where that is cheap.

They tell a resumed run whether its data are still the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any
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
    stamps = [(path, stamp(path)) for path in paths]
    is_cheap = sum(size for _, (size, _) in stamps) <= MAX_BYTES
    found = 0
    for path, (size, modified) in stamps:
        content = content_checksum(path, (size, modified)) if is_cheap and size else modified
        found = crc32(f"{size} {content} ".encode(), found)
    return found


def stamp(path: Path) -> tuple[int, int]:
    """Size and modification time in ns; (0, 0) of what is no file or cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=1 << 16)
def content_checksum(path: Path, stamp: tuple[int, int]) -> int:
    """CRC-32 of a file's content; 0 of one that cannot be read.

    Args:
        path: of the file.
        stamp: its size and time: several splits may be rows of one file, which is read once.
    """
    found = 0
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                found = crc32(block, found)
    except OSError:
        return 0
    return found


def buffers_checksum(batches: Iterable[Any], num_bytes: int) -> int:
    """Changes with the content of a table; of a large one evenly spaced blocks are read.

    Args:
        batches: Arrow record batches.
        num_bytes: of all of them.
    """
    step = max(1, -(-num_bytes // MAX_BYTES))
    found = crc32(str(num_bytes).encode())
    for batch in batches:
        for column in batch.columns:
            for buffer in column.buffers():
                if buffer is None:
                    continue
                content = memoryview(buffer)
                for start in range(0, len(content), step * BLOCK_BYTES):
                    found = crc32(content[start : start + BLOCK_BYTES], found)
    return found
