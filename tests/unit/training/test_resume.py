"""What a run keeps of its last step. How it is resumed: tests/survival."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from safetensors.torch import load_file

from dsvl_tune.cli.commands import fit
from dsvl_tune.training.run.folder import find_checkpoint

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
    retention_scenes: 0
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


def weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 8  # the last step's, not the last best one's
    return checkpoint["state_dict"]


def test_the_last_step_is_kept_where_no_metric_picks(
    hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        RECIPE.format(
            checkpoint=hybrid_checkpoint, runs=tmp_path / "runs", workers=0, accumulate=1
        ),
        encoding="utf-8",
    )
    fit.main(["--config", str(recipe), "--monitor", "last"])
    run = tmp_path / "runs" / "tiny"
    kept = load_file(run / "adapter" / "adapter_model.safetensors")
    for name, tensor in weights(run).items():
        assert torch.equal(kept["base_model." + name.replace(".default.", ".")], tensor)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "last.ckpt",
        "previous.ckpt",
    ]


def test_the_best_checkpoints_stay_and_the_best_of_them_is_taken(
    hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    """At rates that let the loss rise; if rounding makes the last step the best, try another."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        RECIPE.format(
            checkpoint=hybrid_checkpoint, runs=tmp_path / "runs", workers=0, accumulate=1
        ),
        encoding="utf-8",
    )
    for rate in ("1.0", "0.3", "3.0"):
        options = [
            "--monitor",
            "val/loss",
            "--keep_best",
            "3",
            "--model.lr",
            rate,
            "--model.warmup_steps",
            "8",
        ]
        fit.main(["--config", str(recipe), "--run_name", rate, *options])
        run = tmp_path / "runs" / rate
        with next((run / "metrics").rglob("metrics.csv")).open() as file:
            logged = [
                (float(row["val/loss"]), int(row["step"]) + 1)
                for row in csv.DictReader(file)
                if row["val/loss"]
            ]
        assert len(logged) == 8
        best = [step for _, step in sorted(logged)[:3]]
        assert {path.name for path in (run / "checkpoints").glob("best*")} == {
            f"best-step={n}.ckpt" for n in best
        }
        assert find_checkpoint(run, "best").name == f"best-step={best[0]}.ckpt"
        if best[0] != max(best):
            return
    raise AssertionError(
        "in every run the best checkpoint was the newest one, so nothing was shown"
    )
