"""What the processes of one run must know of each other before they are connected."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.utilities.rank_zero import _get_rank
from torch.distributed import TCPStore

DECISION = "DSVL_TUNE_RUN"
"""Environment variable in which the first process tells the others that it starts who it is and what it took."""

Place = tuple[Path, "Path | None"]


def is_first() -> bool:
    """Whether this is the process that writes the run folder."""
    return not _get_rank()


def was_launched_by_first() -> bool:
    """Whether the first process started this one (and torchrun or srun did not)."""
    by_others = "TORCHELASTIC_RUN_ID" in os.environ or SLURMEnvironment.detect()
    return not is_first() and DECISION in os.environ and not by_others


def decided_by_first(decide: Callable[[], Place]) -> Place:
    """What `decide` says in the first process, in every process.

    Once the first process has made a run folder, another that looks would take the next number.
    """
    if was_launched_by_first():
        return from_text(os.environ[DECISION])
    store = shared_store()
    if store is None:
        os.environ[DECISION] = json.dumps((os.getpid(), *decide()), default=str)
        return from_text(os.environ[DECISION])
    attempt = f"{DECISION}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '')}"
    if is_first():
        store.set(attempt, json.dumps((os.getpid(), *decide()), default=str))
    place = from_text(store.get(attempt))
    if store.add(f"{attempt}/readers", 1) == processes():
        store.set(f"{attempt}/read", "by all")
    if is_first():
        store.get(f"{attempt}/read")  # the process that holds the store may not let it go before
    return place


def shared_store() -> TCPStore | None:
    """Where processes that torchrun or srun started at one time can leave each other a word; None for one process."""
    timeout = timedelta(minutes=5)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timeout,
        )
    if SLURMEnvironment.detect() and processes() > 1:
        slurm = SLURMEnvironment()
        port = slurm.main_port + 1  # the port itself is for the process group, later
        return TCPStore(
            slurm.main_address, port, is_master=is_first(), timeout=timeout, wait_for_workers=False
        )
    return None


def processes() -> int:
    """Processes that were started at one time."""
    return int(os.environ.get("WORLD_SIZE") or os.environ["SLURM_NTASKS"])


def from_text(text: str | bytes) -> Place:
    """A place as it was sent."""
    _, folder, checkpoint = json.loads(text)
    return Path(folder), Path(checkpoint) if checkpoint else None


def die_with_first() -> None:
    """End this process when the first one, which started it, is gone: alone it would wait in a collective for ever."""
    if was_launched_by_first():
        first, *_ = json.loads(os.environ[DECISION])
        threading.Thread(target=watch, args=(first,), daemon=True).start()


def watch(parent: int) -> None:
    """Look every second whether the parent is still the parent."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
