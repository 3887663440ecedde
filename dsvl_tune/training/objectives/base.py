"""What an objective is: a function from a model and a batch to the sums that a step is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.types import Batch


class Sums(NamedTuple):
    """Sums over a micro-batch, so that a mean can be taken over an optimizer step and all ranks.

    The loss of a step is the sum of `loss` divided by the sum of `weight`; the unit of weight is
    the objective's own: tokens for supervised training, pairs for a preference loss.

    Attributes:
        loss: float32 scalar with its gradient: weighted sum of the losses.
        weight: float32 scalar: sum of the weights.
        logged: further means to log as `train/NAME`: float32 [2] with a weighted sum and its
            weight, without a gradient. Every call gives the same names; a weight of 0 logs nothing.
    """

    loss: Tensor
    weight: Tensor
    logged: dict[str, Tensor]

    def table(self) -> Tensor:
        """Every sum with its weight, the loss first: float32 [1 + len(logged), 2], no gradients."""
        loss = torch.stack([self.loss.detach(), self.weight])
        return torch.stack([loss, *self.logged.values()])


Objective = Callable[[PreTrainedModel, Batch], Sums]
"""What a step minimizes. A recipe names a function, or a class whose instances can be called, by
its import path: `model.objective: my_module.my_objective`."""
