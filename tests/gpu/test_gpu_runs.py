"""Runs on a GPU, as commands: every way to spend less memory or time has the same losses."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import STEPS, assert_equal_runs, last, write_recipe

from dsvl_tune.training.run.metrics_file import METRICS

ON_GPU = {"trainer__devices": 1, "trainer__log_every_n_steps": 1, "model__lora_dropout": 0.0}


def recipe(folder: Path, checkpoint: Path, device: torch.device, **changes: Any) -> None:
    """A recipe for the device."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    write_recipe(folder, checkpoint, **{**ON_GPU, "trainer__accelerator": accelerator, **changes})


def command(folder: Path, *arguments: str) -> None:
    """A command that must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "dsvl_tune", *arguments],
        cwd=folder,
        env={**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},  # deterministic products
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def losses(folder: Path) -> list[float]:
    """The training losses of a run."""
    with (folder / "runs" / "run" / METRICS).open(encoding="utf-8") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


@pytest.fixture(scope="module")
def plain(
    hybrid_checkpoint: Path, device: torch.device, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run without any of them."""
    folder = tmp_path_factory.mktemp("plain")
    recipe(folder, hybrid_checkpoint, device)
    command(folder, "fit", "--config", "run.yaml")
    return folder


WAYS: dict[str, dict[str, Any]] = {
    "checkpointing": {"model__gradient_checkpointing": True},
    "workers": {"data__init_args__num_workers": 2},
    "kernels off": {"model__kernels": "off"},
    "compile": {"model__compile": True},
    "fsdp2": {"trainer__strategy": "fsdp2"},
    "feature cache": {
        "model__feature_cache": "features",
        "model__feature_dtype": "float32",
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_losses_stay_the_same(
    way: str, plain: Path, hybrid_checkpoint: Path, device: torch.device, tmp_path: Path
) -> None:
    recipe(tmp_path, hybrid_checkpoint, device, **WAYS[way])
    command(tmp_path, "fit", "--config", "run.yaml")
    assert losses(tmp_path) == pytest.approx(losses(plain), rel=2e-4)


def test_flex_attention_trains_alike(
    plain: Path, hybrid_checkpoint: Path, card: torch.device, tmp_path: Path
) -> None:
    recipe(tmp_path, hybrid_checkpoint, card, model__attention="flex")
    command(tmp_path, "fit", "--config", "run.yaml")
    assert losses(tmp_path) == pytest.approx(losses(plain), rel=2e-4)


def test_killed_and_resumed_it_comes_to_the_same_bits(
    hybrid_checkpoint: Path, device: torch.device, tmp_path: Path
) -> None:
    settings = {"trainer__deterministic": True, "checkpoint_every_steps": 1}
    for name in ("whole", "killed"):
        recipe(tmp_path / name, hybrid_checkpoint, device, **settings)
    command(tmp_path / "whole", "fit", "--config", "run.yaml")
    run = tmp_path / "killed" / "runs" / "run"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dsvl_tune", "fit", "--config", "run.yaml"],
            cwd=tmp_path / "killed",
            env={**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
            stdout=log,
            stderr=log,
        )
    until = time.monotonic() + 300
    while not (run / "checkpoints" / "previous.ckpt").exists():
        assert process.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last(run)["global_step"] >= 1
    command(tmp_path / "killed", "fit", "--config", "run.yaml")
    assert_equal_runs(tmp_path / "whole" / "runs" / "run", run)


def test_every_part_trains_deterministically(
    hybrid_checkpoint: Path, device: torch.device, tmp_path: Path
) -> None:
    """torch refuses an operation that has no deterministic gradient on the device."""
    recipe(tmp_path, hybrid_checkpoint, device, model__preset="full", trainer__deterministic=True)
    command(tmp_path, "fit", "--config", "run.yaml")
    assert len(losses(tmp_path)) == STEPS


def test_in_4_bits_and_merged(
    wide_hybrid_checkpoint: Path, device: torch.device, tmp_path: Path
) -> None:
    """The run counts its 4-bit layers itself, and `merge` verifies what it writes."""
    parts = {"language_model": {"mode": "lora", "rank": 4}}
    recipe(
        tmp_path,
        wide_hybrid_checkpoint,
        device,
        model__quantization="nf4",
        model__dtype="bfloat16",
        model__parts=parts,
        trainer__precision="bf16-mixed",
    )
    command(tmp_path, "fit", "--config", "run.yaml")
    command(tmp_path, "merge", "runs/run", "--out", "merged")
    report = json.loads((tmp_path / "merged" / "merge_report.json").read_text(encoding="utf-8"))
    assert "trained_in_4_bits" in json.dumps(report)
