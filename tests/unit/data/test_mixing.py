"""Mixtures: exact ratios, schedules, homogeneous steps and lengths, by position alone."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.sampling.mixture_sampler import MixtureSampler
from dsvl_tune.data.sampling.mixture_schedule import Mixture, Ramp, RowCounts

THREE = Mixture((5.0, 3.0, 2.0), (True, False, False))
WARM_UP = Mixture(
    (1.0, 2.0, 1.0), (True, False, False), Ramp(1.0, 0.7, steps=40), batches_per_step=2
)
GROUPED = Mixture(
    (1.0, 2.0, 1.0),
    (True, False, False),
    Ramp(1.0, 0.7, 40),
    homogeneous_steps=True,
    batches_per_step=3,
)
SIZES = [17, 40, 9]


def sources(rows: list[int]) -> list[int]:
    """The source of each row of SIZES."""
    return [int(np.searchsorted(np.cumsum(SIZES), row, side="right")) for row in rows]


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_counts_stay_within_a_row_of_the_ratios(rows: int) -> None:
    counts = RowCounts(THREE, rows)
    for batch in range(1, 300):
        taken = counts.before(batch)
        assert sum(taken) == rows * batch
        assert all(
            abs(got - rows * batch * ratio / 10) <= 1
            for got, ratio in zip(taken, (5, 3, 2), strict=True)
        )


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_ramp_goes_from_its_start_to_its_end(shape: str) -> None:
    ramp = Ramp(1.0, 0.7, steps=10, first=5, shape=shape)  # type: ignore[arg-type]
    assert [ramp.at(step) for step in (0, 5, 15, 99)] == pytest.approx([1.0, 1.0, 0.7, 0.7])
    assert ramp.at(10) == pytest.approx(0.85)
    values = [ramp.at(step) for step in range(20)]
    assert values == sorted(values, reverse=True)
    first, middle = values[5] - values[6], values[9] - values[10]
    assert (first == pytest.approx(middle)) == (shape == "linear")


def test_the_warm_up_is_followed_row_by_row() -> None:
    counts = RowCounts(WARM_UP, rows=8)
    wanted = 0.0
    for batch in range(400):
        assert abs(counts.before(batch)[0] - wanted) <= 1.5
        wanted += 8 * WARM_UP.text_part(batch // 2)
    assert counts.before(2)[0] == 16  # it begins with text alone
    late = [counts.before(400)[i] - counts.before(200)[i] for i in range(3)]
    assert late == pytest.approx([0.7 * 1600, 0.2 * 1600, 0.1 * 1600], abs=2)


def test_homogeneous_steps_are_of_one_kind_in_the_same_ratios() -> None:
    counts = RowCounts(GROUPED, rows=8)
    kinds = []
    for step in range(300):
        taken = np.sum([counts.at(3 * step + part) for part in range(3)], axis=0)
        assert taken.sum() == 24
        assert (taken[0] == 24) or (taken[0] == 0 and taken[1] == pytest.approx(16, abs=2))
        kinds.append(bool(taken[0]))
        assert kinds[-1] == counts.text_step(3 * step)
    assert sum(kinds[100:]) == pytest.approx(140, abs=1)
    assert (
        all(kinds[:2])
        and abs(sum(kinds[:40]) - sum(GROUPED.text_part(step) for step in range(40))) <= 1
    )


@pytest.mark.parametrize(
    "mixture", [THREE, WARM_UP, GROUPED], ids=["ratios", "warm-up", "homogeneous"]
)
@pytest.mark.parametrize(
    "lengths", [None, np.arange(sum(SIZES)) * 7919 % 100], ids=["drawn", "by length"]
)
def test_any_position_and_any_number_of_processes_see_the_same(
    mixture: Mixture, lengths: np.ndarray | None
) -> None:
    def sampler(
        batch_size: int, rank: int = 0, world_size: int = 1, position: int = 0
    ) -> MixtureSampler:
        return MixtureSampler(
            SIZES,
            mixture,
            batch_size,
            seed=3,
            rank=rank,
            world_size=world_size,
            position=lambda: position,
            lengths=lengths,
        )

    unbroken = [sampler(6).rows_at(batch) for batch in range(130)]
    assert all(len(rows) == 6 for rows in unbroken)
    for start in (0, 1, 31, 32, 77):
        resumed = list(sampler(6, position=start))
        assert resumed == unbroken[start : start + len(resumed)] and len(resumed) > 5
    for world_size in (2, 3):
        parts = [sampler(6 // world_size, rank, world_size) for rank in range(world_size)]
        assert len({len(part) for part in parts}) == 1
        for batch in (0, 5, 33, 100):
            dealt = [part.rows_at(batch) for part in parts]
            assert sorted(chain(*dealt)) == sorted(unbroken[batch])
            assert {len(rows) for rows in dealt} == {6 // world_size}


# First and last of 130 micro-batches and the checksum of all, as recorded with version 0.1.
RECORDED: dict[str, tuple[Mixture, dict[str, Any], list[int], list[int], int]] = {
    "ratios": (THREE, {}, [13, 22, 10, 58], [10, 5, 21, 61], 3255161451),
    "homogeneous": (GROUPED, {}, [13, 3, 10, 16], [13, 2, 14, 6], 1690112754),
    "with replacement": (
        THREE,
        {"with_replacement": [True, False, True]},
        [1, 22, 13, 64],
        [9, 8, 21, 61],
        3840442905,
    ),
    "by length": (
        GROUPED,
        {"lengths": np.arange(sum(SIZES)) * 7919 % 100},
        [0, 0, 0, 16],
        [16, 16, 11, 11],
        2478123879,
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_order_is_the_one_of_version_0_1(name: str) -> None:
    mixture, options, first, last, checksum = RECORDED[name]
    sampler = MixtureSampler(SIZES, mixture, 4, seed=3, **options)
    rows = [sampler.rows_at(batch) for batch in range(130)]
    assert (rows[0], rows[-1]) == (first, last)
    assert crc32(json.dumps(rows).encode()) == checksum


def test_no_row_comes_again_before_all_others_have() -> None:
    sampler = MixtureSampler(SIZES, THREE, 4, seed=1)
    drawn = list(chain(*(sampler.rows_at(batch) for batch in range(200))))
    for source, (start, size) in enumerate(zip((0, 17, 57), SIZES, strict=True)):
        own = [row for row, home in zip(drawn, sources(drawn), strict=True) if home == source]
        times = Counter(own)
        assert set(times) == set(range(start, start + size))
        assert max(times.values()) - min(times.values()) <= 1


def test_with_replacement_rows_come_by_chance() -> None:
    sampler = MixtureSampler(
        [50, 50], Mixture((1.0, 1.0), (False, False)), 8, seed=1, with_replacement=[True, False]
    )
    times = Counter(chain(*(sampler.rows_at(batch) for batch in range(125))))
    assert {times[row] for row in range(50, 100)} == {10}
    assert (
        len({times[row] for row in range(50)}) > 5 and sum(times[row] for row in range(50)) == 500
    )


def test_rows_of_a_micro_batch_are_of_about_one_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, sum(SIZES))
    plain = MixtureSampler(SIZES, THREE, 6, seed=3)
    grouped = MixtureSampler(SIZES, THREE, 6, seed=3, lengths=lengths)
    window = grouped.window_batches

    def padding(sampler: MixtureSampler) -> int:
        batches = [lengths[sampler.rows_at(batch)] for batch in range(2 * window)]
        return sum(int((batch.max() - batch).sum()) for batch in batches)

    assert padding(grouped) < 0.15 * padding(plain)
    for start in (0, window):
        both = [
            sorted(chain(*(sampler.rows_at(start + batch) for batch in range(window))))
            for sampler in (plain, grouped)
        ]
        assert both[0] == both[1]
    widths = [int(lengths[grouped.rows_at(batch)].max()) for batch in range(window)]
    assert widths != sorted(widths)


def test_an_epoch_ends_with_a_step() -> None:
    assert len(MixtureSampler(SIZES, WARM_UP, 8, seed=1)) == 10  # 66 rows, 16 a step: 5 steps of 2
    assert len(MixtureSampler(SIZES, THREE, 8, seed=1, epoch_rows=16)) == 2


def test_sizes_as_ratios_give_every_row_once_an_epoch() -> None:
    mixture = Mixture(tuple(map(float, SIZES)), (True, False, False))
    sampler = MixtureSampler(SIZES, mixture, 6, seed=3)
    assert sorted(chain(*sampler)) == list(range(sum(SIZES)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mixture((1.0, 1.0), (True, False), Ramp(1.2, 0.7, 10)), "ratios between 0 and 1"),
        (lambda: Mixture((1.0, 1.0), (True, False), Ramp(1.0, 0.7, 0)), "at least one step"),
        (lambda: Mixture((1.0, 0.0), (True, False)), "expected positive"),
        (lambda: Mixture((1.0, float("nan")), (True, False)), "expected positive"),
        (lambda: Mixture((1.0, 1.0), (False, False), Ramp(1.0, 0.7, 10)), "all of one kind"),
    ],
)
def test_invalid_mixtures(make: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()  # type: ignore[operator]
