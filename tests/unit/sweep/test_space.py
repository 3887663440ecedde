"""What a sweep tries: values and ranges as they are typed or written in YAML."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from dsvl_tune.core.errors import UserError
from dsvl_tune.sweep.space import combinations, grid_size, parse_space, read_space


@pytest.mark.parametrize(
    ("typed", "distribution"),
    [
        ("8,16,32", CategoricalDistribution((8, 16, 32))),
        ("1e-4, 2e-4", CategoricalDistribution((0.0001, 0.0002))),
        ("true,false", CategoricalDistribution((True, False))),
        ("null,4", CategoricalDistribution((None, 4))),
        ("a b,../c", CategoricalDistribution(("a b", "../c"))),
        ("[0.9, 0.95],[0.9, 0.99]", CategoricalDistribution(("[0.9, 0.95]", "[0.9, 0.99]"))),
        ("1e-4..1e-3:log", FloatDistribution(1e-4, 1e-3, log=True)),
        ("0..0.1", FloatDistribution(0, 0.1)),
        ("1..8", IntDistribution(1, 8)),
        ("8..64:log", IntDistribution(8, 64, log=True)),
    ],
)
def test_values_are_optunas(typed: str, distribution: BaseDistribution) -> None:
    (dimension,) = read_space([f"model.lr={typed}"])
    assert dimension.distribution == distribution
    written = yaml.safe_load(yaml.safe_dump({dimension.key: dimension.setting}))
    assert parse_space(written) == (dimension,)


def test_a_file_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("model.lr: 1e-4..1e-3:log\nmodel.warmup_steps: [0, 30]\n")
    typed = read_space(["model.lr=1e-4..1e-3:log", "--model.warmup_steps=0,30"])
    assert read_space([str(tmp_path / "space.yaml")]) == typed
    assert grid_size(typed) is None
    ends = [tuple(values.values()) for values in combinations(typed)]
    assert ends == [(1e-4, 0), (1e-4, 30), (1e-3, 0), (1e-3, 30)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "nothing to try"),
        (["model.lr"], "no such file. Give KEY=VALUES"),
        (["model.lr=1e-4"], "expected several values or a range"),
        (["model.lr=1,1"], "a value is given twice"),
        (["model.lr=1,2", "model.lr=3,4"], "model.lr: is given twice"),
        (["model.lr=2..1"], "expected the lower number first"),
        (["model.lr=0..1:log"], "a log scale begins above 0"),
        (["model.lr=[1,2"], "cannot be read"),
        (["monitor=val/loss,last"], "all trials of a sweep share it"),
    ],
)
def test_what_are_no_values_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_space(given)
