"""Optimizer steps with a loss or gradient that is not finite: they change nothing, and their rows are named."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from dsvl_tune.core.errors import UserError

SHOWN_ROWS = 16
"""Rows of a bad step that its message names."""


class NonfiniteSteps:
    """Counts them and stops the run at one too many; every process comes to the same result.

    Args:
        allowed: so many are left out.

    Attributes:
        seen: so many have been. found: whether the step in work is one.
        sources: of the rows of each micro-batch of the step in work, in this process.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed, self.seen, self.found = allowed, 0, False
        self.sources: list[list[str]] = []

    def judge(
        self, trainer: L.Trainer, loss: Tensor, losses: Tensor, gradients: Sequence[Tensor]
    ) -> bool:
        """Whether the step in work is a bad one.

        Args:
            trainer: of the run.
            loss: scalar, of the step over all processes.
            losses: [micro-batches of the step], in this process.
            gradients: of the step over all processes.

        Raises:
            UserError: it is, and `allowed` were left out before.
        """
        # A gradient scaler looks for overflow itself, lowers its scale and leaves the step out.
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        self.found = not is_finite_step(loss, [] if scaled else gradients)
        if self.found:
            self.seen += 1
            message = bad_step_message(
                trainer.global_step + 1, loss, rows_of_bad_step(self.sources, losses)
            )
            if self.seen > self.allowed:
                raise UserError(
                    f"{message} Lower model.lr, or look at the rows (dsvl-tune preview); --model.max_nonfinite_steps "
                    f"{self.seen} --ckpt_path last goes on without such a step."
                )
            if trainer.is_global_zero:
                print(f"{message} Left out, {self.seen} of at most {self.allowed}.", flush=True)
        self.sources.clear()
        return self.found


def is_finite_step(loss: Tensor, gradients: Sequence[Tensor]) -> bool:
    """Whether the loss of a step and every gradient of it are finite: one look at the device for both."""
    norm = torch.nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    return bool(torch.isfinite(loss + norm))


def rows_of_bad_step(sources: list[list[str]], losses: Tensor) -> list[str]:
    """Rows of the micro-batches whose loss is not finite, in all processes; of all, where only a gradient is not."""
    bad = [
        rows for rows, finite in zip(sources, losses.isfinite().tolist(), strict=True) if not finite
    ]
    found = [(bad, sources)]
    if distributed.is_available() and distributed.is_initialized():
        found = found * distributed.get_world_size()
        distributed.all_gather_object(found, (bad, sources))
    named = [rows for bad, _ in found for rows in bad] or [
        rows for _, every in found for rows in every
    ]
    return list(
        dict.fromkeys(row for rows in named for row in rows)
    )  # the conversations of a row have one source


def bad_step_message(step: int, loss: Tensor, rows: list[str]) -> str:
    """What the step was, and which rows it had."""
    shown = ", ".join(rows[:SHOWN_ROWS]) + (
        f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    )
    what = "a gradient is not finite" if bool(loss.isfinite()) else f"the loss is {loss.item():g}"
    return f"step {step}: {what}; the step changed nothing. Its rows: {shown}."
