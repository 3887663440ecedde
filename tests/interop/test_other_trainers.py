"""Trainers that have an environment of their own: the benchmark's rows give the same losses."""

from __future__ import annotations

from pathlib import Path

import pytest
from contenders import BASELINE, OURS, PACKAGES, run
from rig_inputs import write_model, write_set

BATCH_SIZE = 2


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rig")


@pytest.mark.parametrize(
    ("model", "questions"), [("siglip", "one"), ("siglip", "text"), ("janus", "one")]
)
def test_losses_are_the_same(model: str, questions: str, rig: Path) -> None:
    write_model(rig, model)
    write_set(rig, questions, rows=2 * BATCH_SIZE)
    plain, *others = (
        run(name, rig / model, rig / questions, BATCH_SIZE, threads=1, scratch=rig)
        for name in (BASELINE, OURS, *PACKAGES)
    )
    assert len(set(plain["losses"])) == 3
    for other in others:
        assert other["losses"] == pytest.approx(plain["losses"], abs=2e-5)
