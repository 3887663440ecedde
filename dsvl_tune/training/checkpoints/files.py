"""Run checkpoints as files: written atomically, the last two kept, the newest intact one found."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import atomic_write, free_bytes, remove, sync_folder
from dsvl_tune.training.checkpoints.contents import problem_in_content
from dsvl_tune.training.checkpoints.run_state import LIGHTNING
from dsvl_tune.training.checkpoints.shard_checksums import has_intact_shards

FOLDER = Path("checkpoints")
"""Folder of the checkpoints inside a run folder."""
NEXT = FOLDER / "next.ckpt"
"""The checkpoint that is being written."""
LAST = FOLDER / "last.ckpt"
"""The newest intact checkpoint."""
PREVIOUS = FOLDER / "previous.ckpt"
"""The checkpoint before the last one."""
REST = "rest.pt"
"""In a sharded checkpoint, which is a folder: everything but the tensors."""


RUN_ID = "run"
"""Key of a checkpoint: the run that it is of."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint next to its place, syncs it to disk, then renames it.

    Lightning's own IO writes to the system's temporary folder and moves the file from there, which
    is a copy where that folder is on another file system, and syncs nothing.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint atomically.

        Args:
            checkpoint: what Lightning collects.
            path: the file to write.
            storage_options: ignored.

        Raises:
            UserError: it could not be written; the message has the bytes needed and available.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, lambda partial: _torch_save(checkpoint, partial))
        except (OSError, UserError) as error:
            cause = error.__cause__ or error
            reason = getattr(cause, "strerror", None) or cause
            raise UserError(
                f"{path}: the checkpoint could not be written ({reason}). It needs "
                f"{tensor_bytes(checkpoint):,} bytes, {free_bytes(path):,} are available. Earlier "
                "checkpoints are unchanged: free some disk space and run the same command again."
            ) from error


def _torch_save(checkpoint: dict[str, Any], path: Path) -> None:
    """`torch.save`, raising the system's error where torch raises a RuntimeError of its own."""
    try:
        with path.open("wb") as file:
            torch.save(checkpoint, file)
    except RuntimeError as error:  # torch's zip writer; the disk's error is the context
        raise OSError(*getattr(error.__context__, "args", (None, str(error)))) from error


def tensor_bytes(checkpoint: Mapping[str, Any]) -> int:
    """Bytes of all tensors in a checkpoint; everything else in it is small."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors_in(checkpoint))


def _tensors_in(content: Any) -> Iterator[torch.Tensor]:
    """Every tensor, of any shape and dtype, in nested mappings and sequences."""
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _tensors_in(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _tensors_in(value)


def keep_as_last(run_folder: Path) -> None:
    """Make `NEXT` the last checkpoint and the last one the previous one; files and folders alike.

    A kill between two of the renames leaves the previous checkpoint intact.
    """
    following = run_folder / NEXT
    last = run_folder / LAST
    previous = run_folder / PREVIOUS
    if last.exists():
        remove(previous)
        last.replace(previous)
    following.replace(last)
    sync_folder(last.parent)


def newest_whole(run_folder: Path, run_id: str | None = None) -> Path | None:
    """The newest checkpoint of a run that can be used; others are reported and skipped.

    Args:
        run_folder: of the run.
        run_id: of the run, by its manifest; None accepts checkpoints of every run.
    """
    for name in (LAST, PREVIOUS):
        path = run_folder / name
        if not path.exists():
            continue
        problem = problem_of(path, run_id)
        if problem is None:
            return path
        following = "trying the checkpoint before it" if name == LAST else "there is none before it"
        print(f"{path} {problem}; {following}", flush=True)
    return None


def problem_of(path: Path, run_id: str | None) -> str | None:
    """Why a checkpoint cannot be used, None if it can.

    Args:
        path: of an existing file or folder, which may come from anyone.
        run_id: of the run that it should be of; None for any.
    """
    if not is_whole(path):
        return "is damaged"
    try:
        found = load_torch_file(path / REST if path.is_dir() else path, mapped=True).get(RUN_ID)
    except UserError:
        return "is not a run checkpoint"
    if None not in (run_id, found) and found != run_id:
        return "belongs to another run"
    return None


def load_torch_file(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """What torch saved of a run checkpoint, which may come from anyone, on the CPU.

    Nothing is unpickled but tensors and plain containers.

    Args:
        path: of the file.
        mapped: whether tensors are mapped into memory instead of read.

    Raises:
        UserError: the file is missing, or is no run checkpoint.
    """
    reason = "no such file"
    if path.is_file():
        try:
            content = torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
        except Exception as error:  # any: torch raises whatever its parsers of zip and pickle do
            # torch goes on to explain how to run what the file brings.
            reason = (str(error).strip().splitlines() or [""])[0].partition(". ")[0]
        else:
            problem = problem_in_content(content)
            if problem is None:
                checked: dict[str, Any] = content
                checked.setdefault(LIGHTNING, L.__version__)  # which Lightning needs
                return checked
            reason = problem
    raise UserError(
        f"{path}: not a run checkpoint ({reason}); nothing was loaded from it. Give another one, "
        "or start a new run with --resume never."
    )


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is intact: every byte is checked against checksums written with it."""
    if path.is_dir():
        return has_intact_shards(path) and _is_whole_file(path / REST)
    return _is_whole_file(path)


def _is_whole_file(path: Path) -> bool:
    """Whether a file that torch wrote is intact; reading a pipe would never end."""
    try:
        if not path.is_file():
            return False
        with zipfile.ZipFile(path) as archive:  # torch.save writes a zip with CRC-32 checksums
            return archive.testzip() is None
    except Exception:  # any: the parser of a damaged zip can raise almost anything
        return False


def step_of(path: Path) -> int:
    """The optimizer step in a checkpoint's name, -1 without one.

    File times do not order checkpoints reliably: clocks are adjusted.
    """
    found = re.search(r"step=(\d+)", path.name)
    return int(found[1]) if found else -1
