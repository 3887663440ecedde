"""Two implementations of the same work, in turns: CPU seconds, and the memory that each adds."""

from __future__ import annotations

import resource
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from statistics import median

Work = Callable[[], object]


def cpu_seconds(work: Work) -> float:
    """User and system seconds of all threads while `work` runs."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def compare(theirs: Work, ours: Work, rounds: int) -> tuple[float, float, float]:
    """Median CPU seconds of each, and the median ratio within a round. Both are warmed up."""
    pairs = [(cpu_seconds(theirs), cpu_seconds(ours)) for _ in range(rounds)]
    columns = list(zip(*pairs, strict=True))
    return median(columns[0]), median(columns[1]), median(first / second for first, second in pairs)


def added_mb(build: Callable[..., tuple[Work, Work]], *arguments: object) -> tuple[float, float]:
    """Peak memory that each adds, in MB, in a process of its own."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        theirs, ours = (pool.apply(peak, (build, arguments, which)) for which in (0, 1))
    return theirs, ours


def peak(
    build: Callable[..., tuple[Work, Work]], arguments: tuple[object, ...], which: int
) -> float:
    """Peak minus initial memory of one of them, in MB, in this process."""
    work = build(*arguments)[which]
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    standing = memory_mb("VmRSS")
    work()
    return memory_mb("VmHWM") - standing


def memory_mb(field: str) -> float:
    """A field of this process's status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))
