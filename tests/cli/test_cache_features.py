"""`dsvl-tune cache-features`, and runs with its cache: the same results, killed or not."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from forking import fork
from runs import answers_in

from dsvl_tune.cli.main import main
from dsvl_tune.core.storage import tensor_cache

SMALL = {
    "train_charts": 8,
    "validation_charts": 2,
    "test_charts": 3,
    "retention_scenes": 2,
    "batch_size": 2,
}
RECIPE: dict[str, Any] = {
    "model": {
        "lr": 0.01,
        "warmup_steps": 0,
        "max_new_tokens": 4,
        "parts": {"aligner": {"mode": "full"}},
    },
    "data": {"class_path": "dsvl_tune.datamodules.ChartsDataModule", "init_args": SMALL},
    "trainer": {
        "max_steps": 4,
        "val_check_interval": 2,
        "accumulate_grad_batches": 2,
        "enable_progress_bar": False,
    },
}
CACHE = ("--model.feature_cache", "features", "--model.feature_dtype", "float32")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", *arguments])
    main()


def results(name: str) -> dict[str, Any]:
    """Answers, logged losses and scores of a run."""
    folder = Path("runs") / name
    found = {
        path.name: path.read_text(encoding="utf-8") for path in (folder / "predictions").iterdir()
    }
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    found |= {
        key: summary[key]
        for key in ("before", "after", "majority_baseline", "steps", "trainable_parameters")
    }
    with (folder / "metrics" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        found["val/loss"] = [
            float(line["val/loss"]) for line in csv.DictReader(file) if line["val/loss"]
        ]
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, hybrid_checkpoint: Path) -> Path:
    """A folder with a recipe and its run without a cache."""
    folder = tmp_path_factory.mktemp("features")
    recipe = {**RECIPE, "model": {**RECIPE["model"], "checkpoint": str(hybrid_checkpoint)}}
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(patch, "fit", "--config", "small.yaml", "--run_name", "plain")
    return folder


@pytest.mark.parametrize("filled", [True, False], ids=["filled before", "filled on the way"])
def test_a_run_with_a_cache_is_the_run_without(
    filled: bool, plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(plain)
    name = f"filled_{filled}"
    cache = ("--model.feature_cache", name, "--model.feature_dtype", "float32")
    if filled:
        run(monkeypatch, "cache-features", "--config", "small.yaml", *cache)
        assert "images: 15 distinct; 0 were cached, 15 added" in capsys.readouterr().out
    run(monkeypatch, "fit", "--config", "small.yaml", "--run_name", name, *cache)
    output = capsys.readouterr().out
    assert ("has every image" in output, "is incomplete" in output) == (filled, not filled)
    assert output.count("frozen, not loaded") == (5 if filled else 0)
    got, wanted = results(name), results("plain")
    assert got.pop("val/loss") == pytest.approx(wanted.pop("val/loss"), abs=1e-5)
    assert got == wanted
    assert len(list(Path(name).rglob("*.safetensors"))) == 15
    run(monkeypatch, "predict", "--config", f"runs/{name}/config.yaml", "--ckpt_path", "best")
    predictions = Path("runs") / name / "predictions" / "predict.jsonl"
    kept = Path("runs") / "plain" / "predictions" / "test_after.jsonl"
    assert answers_in(predictions) == answers_in(kept)


def command_in_child(*arguments: str) -> int:
    """The process id of a child that runs the command silently."""

    def command() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        # The parent's threads do not exist here: a matmul over several would wait for them.
        torch.set_num_threads(1)
        sys.argv = ["dsvl-tune", *arguments]
        main()

    return fork(command)


def test_a_killed_command_continues_and_several_share_the_work(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(plain)
    arguments = ("cache-features", "--config", "small.yaml", "--data.train_charts", "60", *CACHE)
    child = command_in_child(*arguments)
    while not list(Path("features").rglob("*.safetensors")):
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(Path("features").rglob("*.safetensors"))) < 67, "it was not killed on the way"
    children = [command_in_child(*arguments) for _ in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in children] == [0, 0]
    run(monkeypatch, *arguments)
    output = capsys.readouterr().out
    assert "67 distinct images, 0 to add" in output and "67 were cached, 0 added" in output


def test_the_bound_is_reported(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(plain)
    bounded = ("--model.feature_cache", "bounded", "--model.feature_cache_gb", "1.2e-5")
    run(monkeypatch, "cache-features", "--config", "small.yaml", *bounded)
    output = capsys.readouterr().out
    kept = len(list(Path("bounded").rglob("*.safetensors")))
    assert 0 < kept < 15 and output.count("nothing more is added") == 1
    assert re.search(
        rf"0 were cached, {kept} added, {15 - kept} NOT cached: limit of 1.2e-05 GB reached",
        output,
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "no folder to fill. Give one: --model.feature_cache"),
        ([*CACHE, "--model.parts.siglip.mode", "full"], "siglip trains (full)"),
        ([*CACHE, "--model.feature_dtype", "int8"], "feature_dtype"),
        (
            ["--model.feature_cache", "small.yaml"],
            "model.feature_cache: small.yaml cannot be created",
        ),
        (
            ["--model.feature_cache", "full_disk"],
            "full_disk: 15 images of 2.05 kB need 30.72 kB, the disk has 0.00 kB",
        ),
    ],
)
def test_errors_name_the_key(
    plain: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(plain)
    if "full_disk" in arguments:
        monkeypatch.setattr(tensor_cache, "KEPT_FREE_BYTES", 1 << 60)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "cache-features", "--config", "small.yaml", *arguments)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err
