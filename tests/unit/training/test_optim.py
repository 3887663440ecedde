"""The learning rate by step against torch's own schedules."""

from __future__ import annotations

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from dsvl_tune.training.schedules import warmup_cosine

LR = 0.3


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


def optimizer() -> SGD:
    return SGD([torch.zeros(1, requires_grad=True)], lr=LR)


@pytest.mark.parametrize("min_lr_ratio", [0.0, 0.1])
def test_linear_warmup_then_half_a_cosine(min_lr_ratio: float) -> None:
    found = rates(warmup_cosine(optimizer(), 4, 12, min_lr_ratio), 13)
    assert found[:4] == pytest.approx([LR / 4, LR / 2, 3 * LR / 4, LR])
    cosine = CosineAnnealingLR(optimizer(), T_max=8, eta_min=min_lr_ratio * LR)
    assert found[4:] == pytest.approx(rates(cosine, 9))


def test_every_step_moves() -> None:
    """The trap: transformers' schedules give the first step, or the last one, a rate of 0."""
    assert min(rates(warmup_cosine(optimizer(), 3, 10, 0.0), 10)) > 0
    assert rates(warmup_cosine(optimizer(), 0, 2, 0.0), 2) == pytest.approx([LR, LR / 2])


def test_past_the_end_the_rate_stays() -> None:
    assert rates(warmup_cosine(optimizer(), 1, 3, 0.2), 6)[3:] == pytest.approx([0.2 * LR] * 3)
