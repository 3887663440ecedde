"""What ends a run although nothing in it is wrong, told in one message: lost memory, workers and processes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Batch, Prompts
from dsvl_tune.training.checkpoints.files import newest_whole

LOST_PEER = r"(?i)connection (was )?(closed|reset|refused)|broken pipe|peer|timed out|nccl.*(abort|watchdog|remote)"
"""What gloo's and NCCL's errors say when a process at the other end is gone."""
LOST_WORKER = r"DataLoader worker \(pid\(?s?\)? .*(killed by signal|exited unexpectedly)"


@contextmanager
def explained_errors(trainer: L.Trainer, run_folder: Path) -> Iterator[None]:
    """Turn errors of the block that the user can do something about into one message; ours stay as they are.

    Raises:
        UserError: no memory; a data worker or another process is gone.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if (message := fault_message(error, trainer)) is None:
            raise
        kept = newest_whole(run_folder)
        raise UserError(
            f"{message} " + (f"Kept: {kept}." if kept else "No step was saved yet.")
        ) from error


def fault_message(error: Exception, trainer: L.Trainer) -> str | None:
    """What happened and what to do, or None."""
    if is_out_of_memory(error):
        return memory_message(error, trainer)
    if re.search(LOST_WORKER, str(error)):
        workers = trainer.datamodule.num_workers  # type: ignore[attr-defined]
        return (
            f"a data worker is gone ({first_line(error)}). One that the system kills has mostly run out of memory: "
            f"lower data.num_workers (now {workers}). The same command goes on."
        )
    if trainer.world_size > 1 and re.search(LOST_PEER, str(error)):
        return (
            f"another process of this run is gone; what it said itself is above ({first_line(error)}). The same "
            "command goes on."
        )
    return None


def first_line(error: Exception) -> str:
    """An error's first line that says something."""
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )


def is_out_of_memory(error: Exception) -> bool:
    """The device's or the machine's: torch raises a plain RuntimeError for the latter."""
    on_cpu = "DefaultCPUAllocator" in str(error) or "Cannot allocate memory" in str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or on_cpu


def in_words(batch: Batch | Prompts) -> str:
    """A batch's size."""
    rows, tokens = batch.input_ids.shape
    kind = "prompts" if isinstance(batch, Prompts) else "rows"
    return f"{rows} {kind} of up to {tokens:,} tokens with {batch.images} images"


def memory_message(error: Exception, trainer: L.Trainer) -> str:
    """What did not fit, and the keys that make it smaller, the ones that leave the result as it is first."""
    module: Any = trainer.lightning_module
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batch: Batch | Prompts | None = module.in_work
    said = re.search(
        r"[Tt]ried to allocate ([^.]*?\w)(?:\.\s|\.$|$)", str(error).replace("\n", " ")
    )
    what = f"out of memory{f' (tried to allocate {said[1]})' if said else ''}"
    if batch is None:
        return f"{what} before the first batch: give model.dtype bfloat16 or lower data.batch_size ({data.batch_size})."
    rows, tokens = batch.input_ids.shape
    ways = []
    if isinstance(batch, Prompts):
        ways.append(f"data.eval_batch_size from {data.eval_batch_size} to {max(1, rows // 2)}")
    elif rows > 1:
        steps = trainer.accumulate_grad_batches
        ways.append(
            f"data.batch_size from {data.batch_size} to {rows // 2} with trainer.accumulate_grad_batches from {steps} "
            f"to {steps * -(-data.batch_size // (rows // 2))}, which leaves the loss of a step as it is"
        )
    if not module.gradient_checkpointing and not isinstance(batch, Prompts):
        ways.append("model.gradient_checkpointing true")
    ways.append(f"data.max_tokens below {tokens:,}")
    return f"{what} on {in_words(batch)}. Change one: {'; '.join(ways)}."
