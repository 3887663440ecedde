"""What the processes of one run must know of each other before they are connected."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from lightning.fabric.utilities.rank_zero import _get_rank
from torch.distributed import TCPStore

DECISION = "DSVL_TUNE_RUN"
"""Environment variable by which the first process tells the others that it starts which run folder it took."""

Place = tuple[Path, "Path | None"]


def is_first() -> bool:
    """Whether this is the process that writes the run folder."""
    return not _get_rank()


def was_launched_by_first() -> bool:
    """Whether the first process started this one (and torchrun or srun did not)."""
    return not is_first() and DECISION in os.environ


def decided_by_first(decide: Callable[[], Place]) -> Place:
    """What `decide` says in the first process, in every process.

    Once the first process has made a run folder, another that looks would take the next number.
    """
    if was_launched_by_first():
        return from_text(os.environ[DECISION])
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        os.environ[DECISION] = json.dumps(decide(), default=str)
        return from_text(os.environ[DECISION])
    port = int(os.environ["MASTER_PORT"])
    store = TCPStore(os.environ["MASTER_ADDR"], port, is_master=False, timeout=timedelta(minutes=5))
    key = f"{DECISION}/{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    if is_first():
        store.set(key, json.dumps(decide(), default=str))
    return from_text(store.get(key))


def from_text(text: str | bytes) -> Place:
    """A place as it was sent."""
    folder, checkpoint = json.loads(text)
    return Path(folder), Path(checkpoint) if checkpoint else None


def die_with_first() -> None:
    """End this process when the first one, which started it, is gone: alone it would wait in a collective for ever."""
    if was_launched_by_first():
        threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


def watch(parent: int) -> None:
    """Look every second whether the parent is still the parent."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
