"""What the machine has for this process: cores that it may use, and threads that wait asleep."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

if sys.platform != "win32":
    import resource

CGROUPS = Path("/sys/fs/cgroup")
WAIT_SETTINGS = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT")
"""Environment variables of OpenMP runtimes that say how threads wait for one another."""


def available_cores(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Count the cores that this process may use: those of its affinity, within its cgroup's quota.

    Args:
        cgroups: Where the cgroup file system is mounted.
        own: File that names the cgroups of this process.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cgroup_cores(cgroups, own)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cgroup_cores(cgroups: Path, own: Path) -> float | None:
    """Read the CPU quota of a process in cores, e.g. that of `docker run --cpus 1.5`.

    The tightest quota of its cgroup and of those above counts, in either version of cgroups.

    Args:
        cgroups: Where the cgroup file system is mounted.
        own: File that names the cgroups of the process, as /proc/self/cgroup does.

    Returns:
        The quota; None without one.
    """
    quotas = [_quota(folder) for folder in _own_folders(cgroups, own)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _own_folders(cgroups: Path, own: Path) -> list[Path]:
    """List the folders of a process's cgroups and of those above them.

    Inside a container the root of the mount is the process's own cgroup.
    """
    folders = [cgroups, cgroups / "cpu"]
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        root = cgroups if not controllers else cgroups / "cpu"
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = root / path.strip("/")
        while folder != root:
            folders.append(folder)
            folder = folder.parent
    return folders


def _quota(folder: Path) -> float | None:
    """Read the quota of one cgroup in cores; None without one."""
    try:
        if (folder / "cpu.max").is_file():  # version 2: "150000 100000", or "max 100000"
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:  # version 1
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
        cores = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None  # version 1 writes -1 for no quota


def most_open_files() -> int | None:
    """Read how many files this process may open; None on Windows."""
    if sys.platform == "win32":
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def peak_memory_bytes() -> int:
    """Read the most memory that this process had resident."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2) of either system
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def let_threads_sleep(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Let OpenMP's threads sleep while they wait for one another; by default they spin.

    On a machine that does other work, spinning threads take several times the CPU seconds and hold
    up everything else. The runtime reads its settings when torch is imported; processes that are
    started later inherit them.

    Args:
        environment: Where to set them. What the user has set stays.

    Returns:
        Whether threads sleep, or the user has chosen otherwise; False if torch is imported already,
        so that it is too late.
    """
    if any(name in environment for name in WAIT_SETTINGS):
        return True
    if "torch" in sys.modules:
        return False
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    environment["KMP_BLOCKTIME"] = "0"  # Intel's and LLVM's runtimes
    return True
