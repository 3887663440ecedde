"""The order of the rows is a function of seed, position and process, and of nothing else."""

from __future__ import annotations

from itertools import chain

import pytest

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.sampling.epoch_sampler import EpochSampler


@pytest.mark.parametrize(("rows", "batch"), [(10, 3), (12, 4), (1, 8), (7, 1)])
def test_an_epoch_holds_every_row_once(rows: int, batch: int) -> None:
    sampler = EpochSampler(rows, batch, seed=3)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert sorted(chain(*batches)) == list(range(rows))
    assert [len(one) for one in batches[:-1]] == [batch] * (len(batches) - 1)


def test_the_order_is_the_one_of_version_0_1() -> None:
    """It was recorded there: a run that was started with it can be resumed."""
    recorded = [[9, 6, 0], [2, 1, 4], [7, 5, 3], [8], [4, 1, 2], [8, 5, 0], [7, 9, 6], [3]]
    assert list(EpochSampler(10, 3, seed=3)) == recorded[:4]
    assert list(EpochSampler(10, 3, seed=3, position=lambda: 4)) == recorded[4:]


def test_a_pass_from_any_position_continues_an_unbroken_one() -> None:
    unbroken = [EpochSampler(10, 3, seed=3).rows_at(batch) for batch in range(20)]
    for start in range(12):
        resumed = EpochSampler(10, 3, seed=3, position=lambda start=start: start)
        assert list(resumed) == unbroken[start : start + 4]


def test_epochs_and_seeds_differ() -> None:
    orders = [
        tuple(chain(*EpochSampler(50, 5, seed=seed, position=lambda epoch=epoch: 10 * epoch)))
        for seed in range(4)
        for epoch in range(4)
    ]
    assert len(set(orders)) == len(orders)


def test_processes_share_the_micro_batch_of_a_single_one() -> None:
    for batch in range(12):
        parts = [
            EpochSampler(22, 2, seed=3, rank=rank, world_size=3).rows_at(batch) for rank in range(3)
        ]
        assert sorted(chain(*parts)) == sorted(EpochSampler(22, 6, seed=3).rows_at(batch))
        assert all(parts)


def test_no_process_is_left_without_a_row() -> None:
    parts = [list(EpochSampler(9, 2, seed=3, rank=rank, world_size=4)) for rank in range(4)]
    assert [len(part) for part in parts] == [2] * 4
    assert [len(part[-1]) for part in parts] == [1] * 4
    assert set(chain(*chain(*parts))) == set(range(9))


@pytest.mark.parametrize("changed", [{"num_rows": 11}, {"seed": 4}, {"batch_size": 2}])
def test_a_state_fits_its_own_settings_only(changed: dict[str, int]) -> None:
    settings = {"num_rows": 10, "batch_size": 4, "seed": 3}
    state = EpochSampler(**settings).state()
    EpochSampler(10, 2, seed=3, world_size=2).load_state(state)
    with pytest.raises(UserError, match=r"resuming: .*now it is"):
        EpochSampler(**{**settings, **changed}).load_state(state)
