"""The benchmark in small: what it compares trains alike, with and without shared images."""

from __future__ import annotations

import importlib
import json
import mmap
import resource
from pathlib import Path

import pytest
from compare import summary
from rig_inputs import write_charts, write_set
from step_bench import Meter, parse, report

FILE = "charts.openai.jsonl"


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


def test_the_table_tells_user_seconds_from_system_seconds() -> None:
    """Half the user seconds and none of the system seconds, which rise in the second round."""
    trainer, other = (
        [result(user, system) for user, system in figures]
        for figures in (((8.0, 0.0), (8.0, 8.0)), ((4.0, 0.0), (4.0, 0.0)))
    )
    rounds = [{"Trainer + peft": a, "other": b} for a, b in zip(trainer, other, strict=True)]
    plain, row = summary("model, rows", rounds, batch_size=4, epochs=[1])
    assert plain[0] == "model, rows: Trainer + peft"
    assert plain[1:5] == ["3.00", "1.00x (1.00 to 1.00)", "2.00", "1.00x (1.00 to 1.00)"]
    assert row[1:5] == ["1.00", "3.00x (2.00 to 4.00)", "1.00", "2.00x (2.00 to 2.00)"]


def result(user: float, system: float) -> dict[str, object]:
    """What step_bench.py gives of three steps, the first of which warms up."""
    steps = {"user_s": [99.0, user, user], "cpu_s": [99.0, user + system, user + system]}
    return {"steps": steps, "peak_rss_mb": 100.0, "load": 1.0}


def test_a_set_of_another_length_is_not_taken_for_it(tmp_path: Path) -> None:
    write_set(tmp_path, "text", rows=2)
    rows = [json.loads(line) for line in (tmp_path / "text" / FILE).read_text().splitlines()]
    assert len(rows) == 2 and not any("images" in row or "<image>" in str(row) for row in rows)
    write_set(tmp_path, "text", rows=2)
    with pytest.raises(SystemExit, match="has 2 conversations"):
        write_set(tmp_path, "text", rows=4)
