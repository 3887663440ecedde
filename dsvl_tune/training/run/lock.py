"""One process trains in a run folder at a time."""

from __future__ import annotations

import atexit
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.locks import HELD, lock_file
from dsvl_tune.training.checkpoints.files import newest_whole
from dsvl_tune.training.distributed.rank_agreement import is_first

LOCK = ".lock"
"""In a run folder: locked, and named in it, by the process that trains there."""
TOKEN = uuid.uuid4().hex
"""Of this process and its forks: in containers, process numbers come again."""


@contextmanager
def one_at_a_time(run_folder: Path) -> Iterator[None]:
    """Create the run folder if necessary and lock it while the block runs.

    A folder created here is removed again if the block raises a `UserError` before the first run
    checkpoint was saved.

    Args:
        run_folder: Folder of the run.

    Raises:
        UserError: Another process trains in the folder, or the folder cannot be written.
    """
    if not is_first():
        yield
        return
    created = [path for path in (run_folder, *run_folder.parents) if not path.exists()]
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        lock = lock_run(run_folder)
    except OSError as error:
        raise UserError(
            f"{run_folder}: cannot be written ({error.strerror}). Give another --run_dir."
        ) from error
    with lock:
        try:
            yield
        except UserError:
            if created and newest_whole(run_folder) is None:
                _remove_created(created)
            raise


def _remove_created(folders: list[Path]) -> None:
    """Remove a run folder, and those folders above it that are empty then.

    Args:
        folders: The run folder with all its content, then its parents from the inside out.
    """
    shutil.rmtree(folders[0])
    for folder in folders[1:]:
        if any(folder.iterdir()):
            break
        folder.rmdir()


def lock_run(run_folder: Path) -> IO[str]:
    """Lock a run folder until the returned file is closed or the process ends, however it ends.

    The kernel holds the lock, so nothing has to be cleaned up and a lock file that is left behind
    means nothing.

    Raises:
        UserError: Another process holds the lock.
    """
    file = (run_folder / LOCK).open("a+", encoding="utf-8")
    try:
        lock_file(file)
    except OSError as error:
        if error.errno not in HELD:
            file.close()
            raise UserError(
                f"{run_folder}: its file system has no locks ({error.strerror}), so nothing would "
                "keep another process from training there. Give a --run_dir on another disk."
            ) from error
        file.seek(0)
        holder = file.read().partition(" (")[0].strip() or "another process"
        file.close()
        raise UserError(
            f"{run_folder}: {holder} is training there. Wait until it ends, stop it, or give this "
            "run another --run_name."
        ) from None
    file.truncate(0)
    file.write(_own_name())
    file.flush()
    atexit.register(_note_end, run_folder / LOCK)
    return file


def _own_name() -> str:
    """This process, by a name that no other has."""
    return f"process {os.getpid()} on {platform.node()} ({TOKEN})\n"


def _note_end(lock: Path) -> None:
    """Empty the lock file when its process ends by itself: one that is killed leaves its name."""
    with suppress(OSError):
        if lock.read_text(encoding="utf-8") == _own_name():
            lock.write_text("", encoding="utf-8")


def was_killed(run_folder: Path) -> bool:
    """Whether the process that last trained in a run folder was killed, or is still ending."""
    try:
        holder = (run_folder / LOCK).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return holder not in ("", _own_name())
