"""The folder of what is made once and found again: `$XDG_CACHE_HOME/dsvl_tune`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder where files of a kind are kept; not made here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsvl_tune" / kind


def cached(kind: str, name: str, make: Callable[[Path], object]) -> Path:
    """The file of that kind and name; `make` writes it where it is not there yet. It appears whole or not at all."""
    path = cache_folder(kind) / name
    if not path.is_file():
        write_cached(path, make)
    return path


def write_cached(path: Path, make: Callable[[Path], object]) -> None:
    """Let `make` write a file, in place of one that is there; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        make(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
