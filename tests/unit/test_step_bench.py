"""The benchmark in small: what it compares trains alike, with and without shared images."""

from __future__ import annotations

import importlib
import mmap
import resource
from pathlib import Path

import pytest
from rig_inputs import write_charts
from step_bench import Meter, parse, report


@pytest.fixture(scope="module")
def charts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("charts")
    write_charts(folder, images=3, questions=2)
    return folder


def bench(model: Path, data: Path, *more: str) -> dict[str, float]:
    """Three steps of three rows on six rows: the last one is of the second epoch."""
    fixed = ["--steps", "3", "--warmup", "1", "--batch-size", "3"]
    options = parse(["--model", str(model), "--data", str(data), *fixed, *more])
    meter = Meter()
    importlib.import_module(f"contender_{options.contender}").train(options, meter)
    return report(options, meter)


def test_contenders_have_the_same_losses(checkpoint: Path, charts: Path) -> None:
    trainer = bench(checkpoint, charts, "--contender", "hf")
    ours = bench(checkpoint, charts)
    shared = bench(checkpoint, charts, "--share-images")
    assert ours["losses"] == pytest.approx(trainer["losses"], abs=1e-5)
    assert shared["losses"] == pytest.approx(trainer["losses"], abs=1e-5)
    assert len(set(ours["losses"])) == 3
    assert ours["total_tokens_per_s"] > ours["supervised_tokens_per_s"] > 0
    assert ours["samples_per_s"] > 0 < ours["cpu_s_per_step"]


def test_user_and_system_time_are_those_of_the_process() -> None:
    meter = Meter()
    meter.mark()
    before = resource.getrusage(resource.RUSAGE_SELF)
    while resource.getrusage(resource.RUSAGE_SELF).ru_stime - before.ru_stime < 0.3:
        mmap.mmap(-1, 1 << 26).write(bytes(1 << 26))  # fresh memory: page faults
    after = resource.getrusage(resource.RUSAGE_SELF)
    meter.mark()
    user, system = (end - start for start, end in (meter.user_s, meter.system_s))
    assert user == pytest.approx(after.ru_utime - before.ru_utime, abs=0.1)
    assert system == pytest.approx(after.ru_stime - before.ru_stime, abs=0.1)
