"""Bounds on what files from outside may cost: their templates and regular expressions are programs.

A pattern such as (a+)+b can take longer than the universe is old, and a template can ask for more
memory than there is.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

if sys.platform != "win32":
    import resource

SECONDS = 2.0
"""Time that a template or a pattern may take; real ones take milliseconds."""
MEMORY_BYTES = 1 << 30
"""Memory that the process may grow by meanwhile."""


class LimitExceeded(Exception):
    """What ran took longer than it may; memory beyond the limit is a `MemoryError`."""


@contextmanager
def limited(seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> Iterator[None]:
    """Bound the time and the memory of the block, which runs in this process.

    Python checks for signals between instructions and inside of its regular expressions, so a
    timer reaches both. Only the main thread gets signals: in other threads nothing is bounded, and
    on Windows, which has no such timer, nothing at all.

    Args:
        seconds: Most time.
        memory_bytes: Most growth of the process's address space.

    Raises:
        LimitExceeded: The time is over.
        MemoryError: Raised by the block itself, when it asks for more.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise LimitExceeded(f"it takes more than {seconds:g} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)  # of somebody else, who may set it anew
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_address_space(memory_bytes, soft), hard))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, previous)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space(more_bytes: int, soft: int) -> int:
    """The limit that lets the process grow by so many bytes, within the limit that it has."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):  # not on Linux
        return soft
    wanted = pages * resource.getpagesize() + more_bytes
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)
