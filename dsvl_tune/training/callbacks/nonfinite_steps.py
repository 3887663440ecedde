"""Numbers that are not finite: steps are skipped or end the run, results always end it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import lightning as L
import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from dsvl_tune.core.errors import UserError
from dsvl_tune.models.checkpoint.weights import LARGEST_WEIGHT, is_usable
from dsvl_tune.models.runtime.fsdp import local
from dsvl_tune.training.messages import print_above_bars

if TYPE_CHECKING:
    from dsvl_tune.training.evaluation_module import AnsweringModule

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
        self, module: AnsweringModule, loss: Tensor, losses: Tensor, gradient_norm: Tensor
    ) -> bool:
        """Whether the current step is non-finite.

        Args:
            module: of the run.
            loss: float32 scalar, of the step over all ranks.
            losses: [micro-batches of the step] float32, on this rank.
            gradient_norm: scalar, of the step over all ranks.

        Raises:
            UserError: it is, and `allowed` steps were skipped before, or the weights are the cause.
        """
        trainer = module.trainer
        # A gradient scaler detects overflow itself, lowers its scale and skips the step.
        is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        self.found = not bool(torch.isfinite(loss if is_scaled else loss + gradient_norm))
        if self.found:
            check_finite_weights(module)
            self.seen += 1
            samples = nonfinite_samples(self.sources, losses)
            ends = self.seen > self.allowed
            part = module.blamed_part() if ends else ""
            message = nonfinite_message(trainer.global_step + 1, loss, samples, part)
            if ends:
                raise UserError(
                    f"{message} Lower model.lr, or inspect the samples (dsvl-tune preview). To "
                    f"skip such a step: --model.max_nonfinite_steps {self.seen} --ckpt_path last."
                )
            print_above_bars(f"{message} Skipped, {self.seen} of at most {self.allowed}.")
        self.sources.clear()
        return self.found

    def check_trained(self, steps: int) -> None:
        """Raise if every step of a run was skipped.

        Args:
            steps: optimizer steps of the run.

        Raises:
            UserError: its result would be the model that it began with.
        """
        if 0 < steps <= self.seen:
            raise UserError(
                f"all {steps} steps were non-finite and skipped, so nothing was trained. Lower "
                "model.lr, or inspect the rows (dsvl-tune check-data)."
            )


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """Norm of all gradients of a step together; the same on every rank.

    Args:
        gradients: any shapes and floating dtypes; DTensors in a sharded run.

    Returns:
        A scalar in the gradients' dtype.
    """
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def check_finite_weights(module: L.LightningModule) -> None:
    """Raise if a trained weight is not finite, or too large; on every rank, which must all call it.

    Args:
        module: of a run, its model built.

    Raises:
        UserError: an earlier step has made it so: no rows are to blame, and nothing can be saved.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    bad = [name for name, p in trained.items() if not is_usable(local(p.detach()))]
    if module.trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
        named = f", e.g. of {bad[0].removeprefix('model.')}" if bad else ""
        raise UserError(
            f"after step {module.trainer.global_step}: weights are not finite, or above "
            f"{LARGEST_WEIGHT:g}{named}; they are not saved. The steps before it were too large: "
            "lower model.lr or raise model.warmup_steps, and start a new run (--resume never)."
        )


def check_finite_values(
    values: Mapping[str, float | Tensor], blamed: Callable[[], str] = str
) -> None:
    """Raise if a loss or score is not finite.

    Args:
        values: numbers or scalars of any floating dtype, by the name that they are logged under.
        blamed: says which part of the model is to blame.

    Raises:
        UserError: the message names the first.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} is {float(value):g}{blamed()}: a result that is not finite is none. If it "
                "is a loss, weights or activations overflowed: lower model.lr, or use a wider "
                "trainer.precision. If it is a score, its metric does not fit the answers."
            )


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


def nonfinite_message(step: int, loss: Tensor, samples: list[str], part: str) -> str:
    """What went wrong in a step (its loss: float32 scalar), in which part, and its samples."""
    shown = ", ".join(samples[:SHOWN_SAMPLES])
    if len(samples) > SHOWN_SAMPLES:
        shown += f" and {len(samples) - SHOWN_SAMPLES} more"
    what = "a gradient is not finite" if bool(loss.isfinite()) else f"loss is {loss.item():g}"
    return f"step {step}: {what}{part}; weights unchanged. Samples in this step: {shown}."
