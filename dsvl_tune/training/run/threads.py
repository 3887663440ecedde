"""How many threads a process computes with, and whether they sleep while they wait."""

from __future__ import annotations

import os
from functools import cache

import torch

from dsvl_tune.core.machine import available_cores, let_threads_sleep
from dsvl_tune.training.distributed.rank_agreement import is_first


def use_free_cores(processes: int) -> None:
    """Give this process its share of the cores that the run may use, and print that once.

    What `OMP_NUM_THREADS` says stays. Otherwise several processes set the variable, so that those
    that are started later inherit it.

    Args:
        processes: Processes of the run on this machine.
    """
    cores = available_cores()
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, cores // processes)
        torch.set_num_threads(threads)
        if processes > 1:
            os.environ["OMP_NUM_THREADS"] = str(threads)
    if not is_first():
        return
    if not let_threads_sleep():
        _note_spinning()
    print(
        f"threads: {torch.get_num_threads()} in each of {processes} process(es), of {cores} CPU "
        "cores",
        flush=True,
    )


@cache
def _note_spinning() -> None:
    """Say once that threads spin, because torch was imported before it could be changed."""
    print(
        "note: torch was imported before OMP_WAIT_POLICY was set, so threads spin while they wait "
        "for one another. On a machine that does other work, start Python with "
        "OMP_WAIT_POLICY=PASSIVE.",
        flush=True,
    )
