"""Supervised fine-tuning of a mixture of experts, with a loss for evenly used experts on top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import IGNORE_INDEX, Batch
from dsvl_tune.families import family_of_model
from dsvl_tune.training.objectives.base import Sums
from dsvl_tune.training.objectives.supervised import supervised_loss


class BalancedLoss:
    """Cross entropy of the supervised tokens plus `alpha` times the balance loss.

    It matters where a router trains; DeepSeek-VL2 was trained with it in all stages (arXiv
    2412.10302, table 2). Validation reports the cross entropy alone.

    Args:
        alpha: weight of the balance loss: 0.001 for DeepSeek-VL2-Tiny and -Small, 0.0001 for the
            largest.
    """

    def __init__(self, alpha: float = 0.001) -> None:
        self.alpha = alpha

    def __call__(self, model: PreTrainedModel, batch: Batch) -> Sums:
        """The sums over all supervised tokens, and the balance loss as `loss_balance`.

        The balance loss of a sequence weighs as much as its supervised tokens, so it does not
        matter how the sequences of a step are packed, and divided into micro-batches and over
        processes.

        Args:
            model: the complete model.
            batch: on the model's device.

        Raises:
            UserError: the model has no router.
        """
        routers = family_of_model(model).routers(model)
        if not routers:
            raise UserError(
                "model.objective: BalancedLoss needs a mixture of experts, and this model has no "
                "router. Leave model.objective out."
            )
        if not torch.is_grad_enabled():
            return supervised_loss(model, batch)
        with recorded(routers) as outputs:
            loss, weight, logged = supervised_loss(model, batch)
        belongs = sequences_of(batch.segment_ids)
        losses = torch.stack(
            [balance_loss(scores, chosen, belongs) for scores, chosen, _ in outputs]
        )
        supervised = batch.loss_weights * (batch.labels != IGNORE_INDEX)
        supervised[:, 0] = 0  # predicted by nothing
        balance = (losses.sum(0) * (belongs @ supervised.flatten())).sum()
        logged = {**logged, "loss_balance": torch.stack([balance.detach(), weight])}
        return Sums(loss + self.alpha * balance, weight, logged)


@contextmanager
def recorded(routers: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """Within this context, what each router's forward returns, in the order of the calls."""
    outputs: list[Any] = []
    hooks = [
        router.register_forward_hook(lambda _, __, output: outputs.append(output))
        for router in routers
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def sequences_of(segment_ids: Tensor) -> Tensor:
    """Which token belongs to which sequence: each row, or each member of a packed one.

    Args:
        segment_ids: [B, T] int64, as in `Batch`.

    Returns:
        [S, B * T] float32, 1 where it does; S is B times the most members of a row, so some
        sequences may be empty.
    """
    members = int(segment_ids.max()) + 1
    rows = torch.arange(len(segment_ids), device=segment_ids.device)[:, None]
    numbers = torch.where(segment_ids < 0, -1, rows * members + segment_ids).flatten()
    sequences = torch.arange(len(segment_ids) * members, device=segment_ids.device)
    return (sequences[:, None] == numbers).float()


def balance_loss(scores: Tensor, chosen: Tensor, belongs: Tensor) -> Tensor:
    """The balance loss of one layer in each sequence: 1 if every expert is used alike, else more.

    Sum over the experts of f_e p_e, with f_e the share of the sequence's choices that fell on
    expert e times the number of experts, and p_e the mean score of e in the sequence. Padding
    counts in neither, visual tokens in both. Sources: MoEGate with `seq_aux` in
    deepseek_vl2/models/modeling_deepseek.py; arXiv 2412.19437, equations 17 to 20, also for sigmoid
    scores, which are divided by their sum.

    Args:
        scores: [B * T, E], of all experts before any is chosen.
        chosen: [B * T, k] int64.
        belongs: [S, B * T] float32, from `sequences_of`.

    Returns:
        [S] float32, 0 for an empty sequence.
    """
    experts = scores.shape[1]
    tokens = belongs.sum(1, keepdim=True).clamp(min=1)
    used = F.one_hot(chosen, experts).sum(1).float()
    frequency = belongs @ used * experts / (tokens * chosen.shape[1])
    mean_score = belongs @ (scores / scores.sum(-1, keepdim=True)).float() / tokens
    return (frequency * mean_score).sum(1)
