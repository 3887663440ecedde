"""The cache folder, `$XDG_CACHE_HOME/dsvl_tune`: what is computed once and reused by later runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dsvl_tune.core.storage.files import write_cached


def cache_folder(name: str) -> Path:
    """The folder of one kind of cached files, e.g. "images"; not created here."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "dsvl_tune" / name


def cached(folder: str, name: str, write: Callable[[Path], object]) -> Path:
    """The cached file of that name, written first if it is missing.

    Args:
        folder: kind of the file, as in `cache_folder`.
        name: of the file; may contain subfolders.
        write: writes the content to the temporary path that it is given.
    """
    path = cache_folder(folder) / name
    if not path.is_file():
        write_cached(path, write)
    return path
