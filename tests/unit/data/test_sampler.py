"""The order of the rows is a function of seed, position and process, and of nothing else."""

from __future__ import annotations

from itertools import chain

import pytest

from dsvl_tune.data.sampling.epoch_sampler import StepSampler


@pytest.mark.parametrize(("rows", "batch"), [(10, 3), (12, 4), (1, 8), (7, 1)])
def test_an_epoch_holds_every_row_once(rows: int, batch: int) -> None:
    sampler = StepSampler(rows, batch, seed=3)
    steps = list(sampler)
    assert len(steps) == len(sampler)
    assert sorted(chain(*steps)) == list(range(rows))
    assert [len(step) for step in steps[:-1]] == [batch] * (len(steps) - 1)


def test_a_pass_from_any_position_goes_on_where_an_unbroken_one_would() -> None:
    unbroken = [StepSampler(10, 3, seed=3).rows_at(step) for step in range(20)]
    for start in range(12):
        assert (
            list(StepSampler(10, 3, seed=3, position=lambda start=start: start))
            == unbroken[start : start + 4]
        )


def test_epochs_and_seeds_differ() -> None:
    orders = [
        tuple(StepSampler(50, 5, seed).order(epoch)) for seed in range(4) for epoch in range(4)
    ]
    assert len(set(orders)) == len(orders)


def test_processes_share_the_step_of_a_single_one() -> None:
    for step in range(12):
        shares = [StepSampler(22, 2, 3, rank, world_size=3).rows_at(step) for rank in range(3)]
        assert sorted(chain(*shares)) == sorted(StepSampler(22, 6, 3).rows_at(step))
        assert all(shares)


def test_no_process_is_left_without_a_row() -> None:
    shares = [list(StepSampler(9, 2, 3, rank, world_size=4)) for rank in range(4)]
    assert [len(share) for share in shares] == [2] * 4
    assert [len(share[-1]) for share in shares] == [1] * 4
    assert set(chain(*chain(*shares))) == set(range(9))
