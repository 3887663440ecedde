"""Answers of several processes in the order of the questions, dealt out by torch's own sampler."""

from __future__ import annotations

import pytest
from torch.utils.data import DistributedSampler

from dsvl_tune.evaluation.answers import Answer, in_question_order


def answered(number: int) -> Answer:
    return Answer(
        source=f"row {number}",
        question_type="",
        question="?",
        references=(),
        text="!",
        number=number,
    )


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [4, 5, 9])
def test_answers_come_back_in_order_and_once(rows: int, processes: int) -> None:
    """The sampler repeats the first rows, so that all processes have equally many."""
    shares = []
    for rank in range(processes):
        sampler = DistributedSampler(range(rows), processes, rank, shuffle=False)
        shares.append([answered(number) for number in sampler])
    assert in_question_order(shares) == [answered(number) for number in range(rows)]


def test_a_validation_that_was_cut_short_has_fewer_answers() -> None:
    shares = [[answered(0), answered(2)], [answered(1), answered(3)]]
    assert in_question_order([share[:1] for share in shares]) == [answered(0), answered(1)]
