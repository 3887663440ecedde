"""One process trains in a run folder at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dsvl_tune.core.errors import UserError
from dsvl_tune.training.checkpoints.files import newest_whole
from dsvl_tune.training.distributed.rank_agreement import is_first


@contextmanager
def one_at_a_time(run_folder: Path) -> Iterator[None]:
    """Make the run folder if need be and hold it during the block; after a user's error before any step, unmake it.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    if not is_first():
        yield
        return
    made = [path for path in (run_folder, *run_folder.parents) if not path.exists()]
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
            if made and newest_whole(run_folder) is None:
                unmake(made)
            raise


def unmake(made: list[Path]) -> None:
    """Remove a run folder with what is in it, and the folders above it that were made with it and hold nothing else."""
    shutil.rmtree(made[0])
    for folder in made[1:]:
        if any(folder.iterdir()):
            break
        folder.rmdir()


def lock_run(run_folder: Path) -> IO[str]:
    """Hold a run folder until the file returned is closed or the process ends, however it ends.

    The kernel keeps the lock (`lockf`: it belongs to the process alone, so data workers that outlive a killed run do
    not keep it), so nothing has to be cleaned up and a file that is left means nothing.

    Raises:
        UserError: another process holds it.
    """
    file = (run_folder / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise UserError(
            f"{run_folder}: {holder} is training there. Wait for its end, stop it, or give this run another --run_name."
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
    file.flush()
    return file
