"""Atomic files and folders: after a crash there is the old one or the new one, never a part.

Every writer follows one pattern: write to a hidden path next to the target, then rename. What is
kept (checkpoints, reports) is synced to disk first; caches skip that. Commands that need no model
import this module, so it does not import torch; tensors are in `tensor_files`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dsvl_tune.core.errors import UserError

SUMS = "SHA256SUMS"
"""File with the hashes of all files of a checkpoint; see `core.checkpoint.checksums`."""


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically and sync it to disk.

    For one writer at a time: the temporary path is the same at every attempt, so that a retry
    overwrites what a killed attempt has left.

    Args:
        path: the file to make or replace.
        write: writes the content to the temporary path that it is given.

    Raises:
        UserError: the file could not be written (disk full, read-only folder); an existing file is
            unchanged.
    """
    partial = partial_of(path)
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"{path}: could not be written ({getattr(error, 'strerror', None) or error}). "
            "An existing file is unchanged. Free some disk space or choose another folder."
        ) from error


def write_cached(path: Path, write: Callable[[Path], object]) -> None:
    """Write a cache file atomically, without syncing; several processes may write the same one.

    Args:
        path: the file to make or replace; its folder is created.
        write: writes the content to the temporary path that it is given.

    Raises:
        OSError: the file could not be written; nothing is left of the attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk: a rename alone does not survive a power loss.

    Windows opens no folders, and has no need to.
    """
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_text(path, text)


def write_json_lines(path: Path, records: Iterable[Any]) -> None:
    """Write JSONL, one record per line, atomically."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    atomic_write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


@contextmanager
def atomic_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Fill a folder atomically: yields a hidden folder that replaces `target` when the block ends.

    After an error nothing is left. After a kill the hidden folder may be left; the next attempt
    removes it.

    Args:
        target: the folder to make.
        overwrite: whether an existing folder may be replaced, once the new one is complete.

    Raises:
        UserError: `target` is no folder, or holds something and `overwrite` is off; or it cannot
            be made.
    """
    target = target.absolute()
    partial = partial_of(target)
    try:
        finish_replacement(target)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:  # a folder above is a file, or may not be written to
        raise UserError(
            f"{target}: could not be made ({error.strerror}). Choose another folder."
        ) from error
    try:
        if not _may_be_replaced(target, overwrite):
            raise UserError(f"{target}: exists and is not an empty folder. Choose a new one.")
        yield partial
        put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _may_be_replaced(target: Path, overwrite: bool) -> bool:
    """Whether nothing is lost when a folder is put in this place."""
    if target.is_dir():
        return overwrite or not any(target.iterdir())
    return not target.exists() and not target.is_symlink()


def partial_of(target: Path) -> Path:
    """The hidden path that a file or folder is written to before it is renamed."""
    return target.with_name(f".{target.name}.partial")


def replaced_of(target: Path) -> Path:
    """The hidden path that an existing file or folder is moved to while it is replaced."""
    return target.with_name(f".{target.name}.replaced")


def put_in_place(partial: Path, target: Path) -> None:
    """Rename a complete file or folder to `target`, replacing what is there.

    Folders cannot be replaced in one step: `finish_replacement` completes what a kill interrupts.
    """
    finish_replacement(target)
    replaced = replaced_of(target)
    if target.exists():
        target.replace(replaced)
    partial.replace(target)
    remove(replaced)


def finish_replacement(target: Path) -> None:
    """Complete a replacement that a kill interrupted; for the only process that writes there."""
    replaced = replaced_of(target)
    if replaced.exists() and not target.exists():
        replaced.replace(target)
    remove(replaced)


def remove(path: Path) -> None:
    """Remove a file or folder if it exists; a link is removed, and not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:  # also a pipe, which `rmtree` would open and wait for
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def free_bytes(path: Path) -> int:
    """Bytes that can still be written on the disk of a path, which need not exist yet."""
    path = path.absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free


def format_bytes(count: int) -> str:
    """A size for people, in decimal units: "1.50 GB"."""
    for size, unit in ((1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count / 1e3:,.2f} kB"
