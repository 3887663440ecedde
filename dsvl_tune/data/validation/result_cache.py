"""On-disk cache of validation results, so that an interrupted check resumes where it stopped.

A row is inspected again if its file, the settings or one of its images changed, and always if it
had an error, which may have been repaired since.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from dsvl_tune.core.package import VERSION
from dsvl_tune.core.storage.cache_folder import cache_folder
from dsvl_tune.core.storage.files import write_cached
from dsvl_tune.data.validation.row_stats import RowStats

Stamp = tuple[int, int]
"""Size of an image file in bytes, and its modification time in ns."""


class ResultCache:
    """The results of one pass over one set of rows, in pieces of so many rows per file.

    Args:
        identity: what the results depend on: equal identities imply equal results.
        num_rows: rows of the set.
        piece_rows: rows of a piece.
    """

    def __init__(self, identity: str, num_rows: int, piece_rows: int) -> None:
        key = blake2b(f"{code_digest()}{identity}".encode(), digest_size=16).hexdigest()
        self.folder = cache_folder("validation") / key
        self.num_rows = num_rows
        self.piece_rows = piece_rows
        self.stamps: dict[str, Stamp | None] = {}

    def starts(self) -> range:
        """Number of the first row of each piece."""
        return range(0, self.num_rows, self.piece_rows)

    def missing(self) -> Iterator[int]:
        """Numbers of the rows that have to be inspected."""
        for start in self.starts():
            for place, result in enumerate(self.read(start)):
                if result is None:
                    yield start + place

    def read(self, start: int) -> list[list[RowStats] | None]:
        """The results of a piece's rows; None for a row that has to be inspected."""
        path = self.folder / str(start)
        if not path.is_file():
            return [None] * min(self.piece_rows, self.num_rows - start)
        return [self.usable(json.loads(line)) for line in path.read_text().splitlines()]

    def usable(self, stored: list[tuple[dict[str, Any], list[Any]]]) -> list[RowStats] | None:
        """A row's results, unless one has an error or an image changed."""
        found = []
        for values, old_stamps in stored:
            stats = RowStats(**{key: as_tuple(value) for key, value in values.items()})
            stamps = [self.image_stamp(name) for name in stats.images]
            if stats.error or stamps != [as_tuple(stamp) for stamp in old_stamps]:
                return None
            found.append(stats)
        return found

    def write(self, start: int, piece: Sequence[list[RowStats]]) -> None:
        """Store the results of a piece's rows, one row per line."""
        lines = []
        for row in piece:
            stored = [
                (asdict(stats), [self.image_stamp(name) for name in stats.images]) for stats in row
            ]
            lines.append(json.dumps(stored) + "\n")
        write_cached(self.folder / str(start), partial(Path.write_text, data="".join(lines)))

    def image_stamp(self, name: str) -> Stamp | None:
        """Stamp of an image that is a file; None for others, whose name or row identifies them."""
        if name not in self.stamps:
            try:
                status = os.stat(name)
                self.stamps[name] = (status.st_size, status.st_mtime_ns)
            except OSError:
                self.stamps[name] = None
        return self.stamps[name]


@lru_cache
def code_digest() -> str:
    """Of the version and of the code that reads rows: other code may find other errors."""
    digest = blake2b(VERSION.encode(), digest_size=16)
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def as_tuple(value: Any) -> Any:
    """A list as a tuple, anything else as it is: JSON has no tuples."""
    return tuple(value) if isinstance(value, list) else value
