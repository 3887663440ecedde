"""What the processes of one run agree on before they are connected."""

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
"""Environment variable that passes rank 0's process id and run folder to the ranks it starts."""

CONNECT_TIMEOUT = timedelta(minutes=5)

Place = tuple[Path, "Path | None"]
"""A run folder, and the checkpoint to resume from."""


def is_first() -> bool:
    """Whether this is rank 0, which writes the run folder."""
    return not _get_rank()


def was_launched_by_first() -> bool:
    """Whether rank 0 started this process (and neither torchrun nor srun did)."""
    by_others = "TORCHELASTIC_RUN_ID" in os.environ or SLURMEnvironment.detect()
    return not is_first() and DECISION in os.environ and not by_others


def decided_by_first(decide: Callable[[], Place]) -> Place:
    """The result of `decide` on rank 0, on every rank.

    Once rank 0 has made a run folder, another rank that looks would choose the next number.

    Args:
        decide: called on rank 0 only.
    """
    if was_launched_by_first():
        return _parse_place(os.environ[DECISION])
    store = _shared_store()
    if store is None:
        os.environ[DECISION] = json.dumps((os.getpid(), *decide()), default=str)
        return _parse_place(os.environ[DECISION])
    attempt = f"{DECISION}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '')}"
    if is_first():
        store.set(attempt, json.dumps((os.getpid(), *decide()), default=str))
    place = _parse_place(store.get(attempt))
    if store.add(f"{attempt}/readers", 1) == _process_count():
        store.set(f"{attempt}/read", "by all")
    if is_first():
        store.get(f"{attempt}/read")  # rank 0 may hold the store and must not close it earlier
    return place


def _shared_store() -> TCPStore | None:
    """A key-value store shared by processes that torchrun or srun started; None for one process."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=CONNECT_TIMEOUT,
        )
    if SLURMEnvironment.detect() and _process_count() > 1:
        slurm = SLURMEnvironment()
        return TCPStore(
            slurm.main_address,
            slurm.main_port + 1,  # the process group takes the port itself, later
            is_master=is_first(),
            timeout=CONNECT_TIMEOUT,
            wait_for_workers=False,
        )
    return None


def _process_count() -> int:
    """Number of processes that were started together."""
    return int(os.environ.get("WORLD_SIZE") or os.environ["SLURM_NTASKS"])


def _parse_place(text: str | bytes) -> Place:
    """A place from its JSON form."""
    _, folder, checkpoint = json.loads(text)
    return Path(folder), Path(checkpoint) if checkpoint else None


def die_with_first() -> None:
    """End this process when rank 0, which started it, is gone; it would wait forever otherwise."""
    if was_launched_by_first():
        first, *_ = json.loads(os.environ[DECISION])
        die_with(first)


def die_with(parent: int) -> None:
    """End this process when the one that started it is gone.

    Args:
        parent: Process id of that one.
    """
    threading.Thread(target=_exit_without, args=(parent,), daemon=True).start()


def _exit_without(parent: int) -> None:
    """Exit once the parent process is another one; checked every second."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
