"""What a run logs of its steps: means over the steps since the last logged one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dsvl_tune.core.errors import UserError


class IntervalMeans:
    """Sums of the optimizer steps since the last logged one.

    Run checkpoints keep them, so the first mean after a resume is that of a run that was never
    stopped, to the digit: the same numbers are added in the same order.
    """

    def __init__(self) -> None:
        self._steps: list[Tensor] = []

    def add(self, sums: Tensor) -> None:
        """Add a step.

        Args:
            sums: [names, 2] float32: weighted sum and weight of each name, over all ranks.

        Raises:
            UserError: the steps of the checkpoint that the run resumed from logged other names.
        """
        if self._steps and self._steps[-1].shape != sums.shape:
            raise UserError(
                f"resuming: the checkpoint's steps logged {len(self._steps[-1])} values, this run "
                f"logs {len(sums)}. Resume with the recipe that wrote it."
            )
        self._steps.append(sums)

    def means(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Mean of each name over the interval, a float32 scalar; names without weight are left out.

        Args:
            names: in the order of the sums.
        """
        totals = torch.stack(self._steps).sum(0)
        has_weight = (totals[:, 1] > 0).tolist()  # at once: a GPU is waited for
        means = zip(names, totals[:, 0] / totals[:, 1], has_weight, strict=True)
        return {name: mean for name, mean, counts in means if counts}

    def clear(self) -> None:
        """Begin the next interval."""
        self._steps.clear()

    def state(self) -> list[Tensor]:
        """What a run checkpoint keeps: the sums of each step, [names, 2] float32."""
        return list(self._steps)

    def load(self, steps: Sequence[Tensor], device: torch.device) -> None:
        """Continue the interval of a run checkpoint.

        Args:
            steps: what `state` gave, [names, 2] float32.
            device: of the sums that follow.
        """
        self._steps = [sums.to(device) for sums in steps]
