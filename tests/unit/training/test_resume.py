"""A run that is stopped and gone on with ends with the weights of a run that was never stopped, bit for bit."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from dsvl_tune.recipe import RecipeCLI
from dsvl_tune.training.run_folder import kept_checkpoint
from dsvl_tune.training.run_parts import run_callbacks

RECIPE = """
model:
  checkpoint: {checkpoint}
  lr: 0.002
  warmup_steps: 3
  lora_dropout: 0.1
  max_new_tokens: 3
  parts:
    aligner: {{mode: lora, rank: 4}}
data:
  class_path: dsvl_tune.datamodules.ChartsDataModule
  init_args:
    train_charts: 10
    validation_charts: 2
    test_charts: 2
    probe_scenes: 0
    batch_size: 2
    questions: 3
    num_workers: {workers}
    system_prompt: ""
trainer:
  max_steps: 8
  max_epochs: -1
  val_check_interval: {accumulate}
  check_val_every_n_epoch: null
  accumulate_grad_batches: {accumulate}
  enable_progress_bar: false
run_dir: {runs}
"""


class InterruptAt(L.Callback):
    """Presses Ctrl-C while a given micro-batch is in work."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGINT)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 8  # the last step's, not the last best one's
    return checkpoint["state_dict"]


@pytest.mark.parametrize(("workers", "accumulate", "stop_at"), [(0, 1, 2), (0, 2, 7), (2, 1, 5)])
def test_stopped_and_resumed_equals_never_stopped(
    hybrid_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    accumulate: int,
    stop_at: int,
) -> None:
    recipe = tmp_path / "tiny.yaml"
    runs = tmp_path / "runs"
    recipe.write_text(
        RECIPE.format(checkpoint=hybrid_checkpoint, runs=runs, workers=workers, accumulate=accumulate), encoding="utf-8"
    )
    RecipeCLI(["fit", "--config", str(recipe)])
    with monkeypatch.context() as patch:
        patch.setattr("dsvl_tune.recipe.run_callbacks", lambda *args: [InterruptAt(stop_at), *run_callbacks(*args)])
        RecipeCLI(["fit", "--config", str(recipe)])
    stopped = torch.load(runs / "tiny-2" / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < stopped["global_step"] < 8
    assert not (runs / "tiny-2" / "summary.json").exists()
    RecipeCLI(["fit", "--config", str(recipe)])
    whole, resumed = weights(runs / "tiny"), weights(runs / "tiny-2")
    assert set(whole) == set(resumed)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (runs / "tiny-2" / "summary.json").is_file()


def test_the_last_step_is_kept_where_no_metric_picks(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        RECIPE.format(checkpoint=hybrid_checkpoint, runs=tmp_path / "runs", workers=0, accumulate=1), encoding="utf-8"
    )
    RecipeCLI(["fit", "--config", str(recipe), "--best_by", "last"])
    run = tmp_path / "runs" / "tiny"
    kept = load_file(run / "adapter" / "adapter_model.safetensors")
    for name, tensor in weights(run).items():
        assert torch.equal(kept["base_model." + name.replace(".default.", ".")], tensor)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_the_best_checkpoints_stay_and_the_best_of_them_is_taken(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    """With a rate that lets the loss rise, the best of those kept is not the newest."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        RECIPE.format(checkpoint=hybrid_checkpoint, runs=tmp_path / "runs", workers=0, accumulate=1), encoding="utf-8"
    )
    options = ["--best_by", "val/loss", "--keep_best", "3", "--model.lr", "0.3", "--model.warmup_steps", "8"]
    RecipeCLI(["fit", "--config", str(recipe), *options])
    run = tmp_path / "runs" / "tiny"
    with next((run / "metrics").rglob("metrics.csv")).open() as file:
        told = [(float(row["val/loss"]), int(row["step"]) + 1) for row in csv.DictReader(file) if row["val/loss"]]
    assert len(told) == 8 and min(told)[1] != max(step for _, step in sorted(told)[:3])
    kept = {path.name for path in (run / "checkpoints").glob("best*")}
    assert kept == {f"best-step={step}.ckpt" for _, step in sorted(told)[:3]}
    assert kept_checkpoint(run, "best", run).name == f"best-step={min(told)[1]}.ckpt"
