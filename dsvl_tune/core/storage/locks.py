"""Locks on files and folders that the system drops when their process ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

HELD = (errno.EACCES, errno.EAGAIN)
"""Errors of a lock that another process holds; every other one is the file system's."""
PLACE = 1 << 30
"""Byte that is locked on Windows, behind the text of the file: others have to read that."""


def lock_file(file: IO[str]) -> None:
    """Lock a file until it is closed or the process ends.

    `lockf` locks belong to one process alone: data workers that outlive a killed run do not hold
    it, as they would hold one of `flock` (and of filelock, which uses that).

    Args:
        file: Open for writing.

    Raises:
        OSError: Another process holds the lock (`HELD`), or the file system has no locks.
    """
    if sys.platform == "win32":
        os.lseek(file.fileno(), PLACE, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_folder(folder: Path) -> int:
    """Lock a folder until the returned handle is closed or the process ends.

    Args:
        folder: That exists.

    Returns:
        A handle for `os.close`.

    Raises:
        OSError: Another process holds the lock, or there are no locks on folders, as on Windows.
    """
    handle = os.open(folder, os.O_RDONLY)
    if sys.platform != "win32":
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
    return handle
