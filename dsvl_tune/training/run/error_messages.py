"""Failures that are no bugs of the run, as one message each: lost memory, workers and ranks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.lost_memory import lost_memory
from dsvl_tune.core.types import Batch, Prompts
from dsvl_tune.training.checkpoints.files import newest_whole
from dsvl_tune.training.run.restoring import unfit

LOST_RANK = (
    r"(?i)connection (was )?(closed|reset|refused)|broken pipe|peer|timed out"
    r"|nccl.*(abort|watchdog|remote)"
)
"""What errors of gloo and NCCL contain if the process at the other end is gone."""
LOST_WORKER = r"DataLoader worker \(pid\(?s?\)? .*(killed by signal|exited unexpectedly)"


@contextmanager
def keyboard_interrupts() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on Ctrl-C, where Lightning's trainer raises `SystemExit`."""
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None


@contextmanager
def explained_errors(trainer: L.Trainer, run_folder: Path | None) -> Iterator[None]:
    """Turn errors that the user can do something about into one message.

    Args:
        trainer: Trainer that runs in the block.
        run_folder: Folder of the run, to name the run checkpoint to resume from; None if nothing is
            trained.

    Raises:
        UserError: Out of memory, a data worker or another rank is gone, or the state in the run
            checkpoint cannot be restored.
    """
    try:
        yield
    except (UserError, MisconfigurationException):
        raise
    except Exception as error:  # any: states of all kinds are restored, each by its own class
        message = _message(error, trainer)
        if message is None and trainer._checkpoint_connector._loaded_checkpoint:
            raise unfit(trainer, f"{type(error).__name__}: {_first_line(error)}") from error
        if message is None:
            raise
        if run_folder is None:
            raise UserError(message) from error
        saved = newest_whole(run_folder)
        kept = f"Saved: {saved}." if saved else "No run checkpoint was saved yet."
        raise UserError(f"{message} {kept}") from error


def _message(error: Exception, trainer: L.Trainer) -> str | None:
    """Describe what happened and what to do; None for any other error."""
    if problem := lost_memory(error):
        return _memory_message(problem, trainer)
    if re.search(LOST_WORKER, str(error)):
        workers = trainer.datamodule.num_workers  # type: ignore[attr-defined]
        return (
            f"a data worker died ({_first_line(error)}). Workers that the system kills have "
            f"usually run out of memory: lower data.num_workers (now {workers}). Run the same "
            "command again to resume."
        )
    if trainer.world_size > 1 and re.search(LOST_RANK, str(error)):
        return (
            f"another rank exited; see its error message above ({_first_line(error)}). Run the "
            "same command again to resume."
        )
    return None


def _first_line(error: Exception) -> str:
    """Return the first line of an error that is not empty, else the name of its type."""
    for line in str(error).splitlines():
        if line.strip():
            return line.strip()
    return type(error).__name__


def _memory_message(problem: str, trainer: L.Trainer) -> str:
    """Name what did not fit, and the keys that lower memory, those without side effects first."""
    module: Any = trainer.lightning_module  # None before and after training
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batch: Batch | Prompts | None = module.in_work if module is not None else None
    if batch is None or data is None:
        return (
            f"{problem} outside of a batch: set model.dtype to bfloat16, or lower "
            "data.batch_size or data.num_workers."
        )
    changes = _batch_changes(batch, data, trainer.accumulate_grad_batches)
    if not module.gradient_checkpointing and not isinstance(batch, Prompts):
        changes.append("model.gradient_checkpointing true")
    changes.append(f"data.max_tokens below {batch.input_ids.shape[1]:,}")
    return f"{problem} on {_batch_size(batch)}. Change one: {'; '.join(changes)}."


def _batch_size(batch: Batch | Prompts) -> str:
    """Describe the size of a batch."""
    rows, tokens = batch.input_ids.shape
    name = "prompts" if isinstance(batch, Prompts) else "rows"
    return f"{rows} {name} of up to {tokens:,} tokens with {batch.images} images"


def _batch_changes(batch: Batch | Prompts, data: Any, accumulate: int) -> list[str]:
    """Suggest keys that make this batch smaller and leave the loss of a step as it is."""
    rows = len(batch.input_ids)
    if isinstance(batch, Prompts):
        return [f"data.eval_batch_size from {data.eval_batch_size} to {max(1, rows // 2)}"]
    if rows == 1:
        return []
    parts = -(-data.batch_size // (rows // 2))
    return [
        f"data.batch_size from {data.batch_size} to {rows // 2} with "
        f"trainer.accumulate_grad_batches from {accumulate} to {accumulate * parts}, which leaves "
        "the loss of a step as it is"
    ]
