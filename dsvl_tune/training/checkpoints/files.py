"""Checkpoint files that are whole or absent, two of which are always kept, and finding the newest whole one."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.files import remove, sync_folder, write_whole

FOLDER = Path("checkpoints")
NEXT, LAST, PREVIOUS = FOLDER / "next.ckpt", FOLDER / "last.ckpt", FOLDER / "previous.ckpt"
"""In a run folder: the one that is being written, the newest whole one, and the one before."""


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, down to the disk, then renames it.

    Lightning's own writes to the system's folder for temporary files and moves from there, which is a copy where that
    is another file system, and syncs nothing.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`, whole or not at all.

        Raises:
            UserError: it could not be written; the message has the bytes it takes and those that are free.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda partial: save_file(checkpoint, partial))
        except (OSError, UserError) as error:
            reason = error.__cause__ or error
            reason = getattr(reason, "strerror", None) or reason
            raise UserError(
                f"{path}: the checkpoint could not be written ({reason}). It takes {tensor_bytes(checkpoint):,} bytes, "
                f"and {free_bytes(path):,} are free. Checkpoints written before are untouched: make room, and the same "
                "command goes on."
            ) from error


def save_file(checkpoint: dict[str, Any], path: Path) -> None:
    """`torch.save`, with the system's error where torch tells its own."""
    try:
        with path.open("wb") as file:
            torch.save(checkpoint, file)
    except RuntimeError as error:  # torch's zip writer; what the disk said is the context
        raise OSError(*getattr(error.__context__, "args", (None, str(error)))) from error


def free_bytes(path: Path) -> int:
    """Room on the disk that would hold `path`."""
    return shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free


def tensor_bytes(checkpoint: Mapping[str, Any]) -> int:
    """Bytes of all tensors in a checkpoint; what else it holds is small."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(checkpoint))


def tensors_in(content: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested mappings and lists."""
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from tensors_in(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from tensors_in(value)


def keep_as_last(run_folder: Path) -> None:
    """Turn what `NEXT` holds into the last checkpoint, and the last into the previous one.

    Files and folders alike. A kill between two of the renames leaves the previous one, whole.
    """
    following, last, previous = (run_folder / name for name in (NEXT, LAST, PREVIOUS))
    if last.exists():
        remove(previous)
        last.replace(previous)
    following.replace(last)
    sync_folder(last.parent)


def newest_whole(run_folder: Path) -> Path | None:
    """The newest checkpoint that can be gone on from, or None. Says so where a damaged one had to be passed over."""
    for name in (LAST, PREVIOUS):
        path = run_folder / name
        if path.exists() and is_whole(path):
            return path
        if path.exists():
            print(f"{path} is damaged; looking for the one before it", flush=True)
    return None


def is_whole(path: Path) -> bool:
    """Whether every byte of a checkpoint is as it was written, by the checksums in it.

    Of a sharded one, which is a folder, only whether its writing was finished: torch writes `.metadata` last.
    """
    if path.is_dir():
        return (path / ".metadata").is_file()
    try:
        with zipfile.ZipFile(
            path
        ) as archive:  # what torch.save writes: a zip with a CRC-32 for each tensor
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def step_of(path: Path) -> int:
    """The step in a checkpoint's name, -1 without one. Times of files tell no order: clocks are put right."""
    found = re.search(r"step=(\d+)", path.name)
    return int(found[1]) if found else -1
