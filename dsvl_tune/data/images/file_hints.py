"""The file that is meant where the one that is named does not exist."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def nearest_file(path: Path) -> Path | None:
    """An existing path that looks the same: other case, composed accents, or white space.

    Args:
        path: of a file that does not exist.
    """
    missing = path
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    wanted = folded(missing.name)
    try:
        with os.scandir(missing.parent) as entries:
            found = next((entry.name for entry in entries if folded(entry.name) == wanted), None)
    except OSError:
        return None
    if found is None:
        return None
    nearest = missing.parent / found / path.relative_to(missing)
    return nearest if missing == path or nearest.exists() else None


def folded(name: str) -> str:
    """A file name without the differences that an eye does not see."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())
