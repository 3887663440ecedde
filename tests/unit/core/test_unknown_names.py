"""Messages about unknown names."""

from __future__ import annotations

import pickle

import pytest

from dsvl_tune.core.errors import UserError, nearest_name, unknown_name


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("ft", "fit"), ("MERGE", "merge"), ("validate", None), ("", None)],
)
def test_nearest_name(given: str, nearest: str | None) -> None:
    assert nearest_name(given, ["fit", "merge"]) == nearest


def test_the_nearest_name_keeps_its_own_case() -> None:
    assert nearest_name("chartsdatamodul", ["ChartsDataModule"]) == "ChartsDataModule"


def test_a_stricter_cutoff_finds_less() -> None:
    assert nearest_name("mode", ["model.lr"], cutoff=0.6) == "model.lr"
    assert nearest_name("mode", ["model.lr"], cutoff=0.8) is None


def test_without_a_near_name_all_are_listed() -> None:
    error = unknown_name("part", "x", ["fit", "merge"])
    assert str(error) == "unknown part 'x'. Known: fit, merge."


def test_a_workers_traceback_is_cut_off() -> None:
    text = "Caught UserError in worker\nTraceback ...\ndsvl_tune.core.errors.UserError: row 3: bad"
    assert str(UserError(text)) == "row 3: bad"
    assert str(pickle.loads(pickle.dumps(UserError("row 3: bad")))) == "row 3: bad"
