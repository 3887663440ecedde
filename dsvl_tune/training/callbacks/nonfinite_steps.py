"""Optimizer steps with a non-finite loss or gradient: skipped, counted, samples reported."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from dsvl_tune.core.errors import UserError

SHOWN_SAMPLES = 16
"""Samples of a non-finite step that its message names."""


class NonfiniteSteps:
    """Counts non-finite steps and ends the run at one too many; every rank decides the same.

    Args:
        allowed: number of steps that are skipped; the next one ends the run.

    Attributes:
        seen: number of non-finite steps so far.
        found: whether the current step is one.
        sources: of the samples of each micro-batch of the current step, on this rank.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.seen = 0
        self.found = False
        self.sources: list[list[str]] = []

    def judge(
        self, trainer: L.Trainer, loss: Tensor, losses: Tensor, gradients: Sequence[Tensor]
    ) -> bool:
        """Whether the current step is non-finite.

        Args:
            trainer: of the run.
            loss: float32 scalar, of the step over all ranks.
            losses: [micro-batches of the step] float32, on this rank.
            gradients: of the step over all ranks; any shapes.

        Raises:
            UserError: it is, and `allowed` steps were skipped before.
        """
        # A gradient scaler detects overflow itself, lowers its scale and skips the step.
        is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        self.found = not is_finite_step(loss, [] if is_scaled else gradients)
        if self.found:
            self.seen += 1
            samples = nonfinite_samples(self.sources, losses)
            message = nonfinite_message(trainer.global_step + 1, loss, samples)
            if self.seen > self.allowed:
                raise UserError(
                    f"{message} Lower model.lr, or inspect the samples (dsvl-tune preview). To "
                    f"skip such a step: --model.max_nonfinite_steps {self.seen} --ckpt_path last."
                )
            if trainer.is_global_zero:
                print(f"{message} Skipped, {self.seen} of at most {self.allowed}.", flush=True)
        self.sources.clear()
        return self.found


def is_finite_step(loss: Tensor, gradients: Sequence[Tensor]) -> bool:
    """Whether the loss and all gradients of a step are finite, with one device synchronization.

    Args:
        loss: float32 scalar.
        gradients: any shapes; DTensors in a sharded run.
    """
    norm = torch.nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    return bool(torch.isfinite(loss + norm))


def nonfinite_samples(sources: list[list[str]], losses: Tensor) -> list[str]:
    """Samples of the micro-batches with a non-finite loss, over all ranks.

    All samples of the step where only a gradient is not finite.

    Args:
        sources: of the samples of each micro-batch, on this rank.
        losses: [micro-batches] float32, on this rank.
    """
    finite = losses.isfinite().tolist()
    bad = [names for names, is_finite in zip(sources, finite, strict=True) if not is_finite]
    gathered = [(bad, sources)]
    if distributed.is_available() and distributed.is_initialized():
        gathered = gathered * distributed.get_world_size()
        distributed.all_gather_object(gathered, (bad, sources))
    named = [names for bad_of_rank, _ in gathered for names in bad_of_rank]
    if not named:
        named = [names for _, all_of_rank in gathered for names in all_of_rank]
    # The conversations of one row share a source.
    return list(dict.fromkeys(source for names in named for source in names))


def nonfinite_message(step: int, loss: Tensor, samples: list[str]) -> str:
    """What went wrong in a step (its loss: float32 scalar), and its samples."""
    shown = ", ".join(samples[:SHOWN_SAMPLES])
    if len(samples) > SHOWN_SAMPLES:
        shown += f" and {len(samples) - SHOWN_SAMPLES} more"
    what = "a gradient is not finite" if bool(loss.isfinite()) else f"loss is {loss.item():g}"
    return f"step {step}: {what}; weights unchanged. Samples in this step: {shown}."
