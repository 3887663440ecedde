"""A run on a DeepSeek-VL2 whose routed experts are in 4 bits: fit, and merge into its 16 bits."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from dsvl_tune.cli.main import main

RECIPE = """
model:
  checkpoint: {checkpoint}
  preset: qlora
  parts: {{experts: {{mode: lora, rank: 4}}, projector: {{mode: full}}}}
  lr: 0.01
  warmup_steps: 0
  max_new_tokens: 3
data:
  class_path: dsvl_tune.datamodules.ChartsDataModule
  init_args:
    train_charts: 4
    validation_charts: 1
    test_charts: 1
    retention_scenes: 0
    batch_size: 2
    questions: 2
trainer: {{max_steps: 12, log_every_n_steps: 1, val_check_interval: 6, enable_progress_bar: false}}
"""


def test_fit_and_merge(
    deepseek_vl2_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE.format(checkpoint=deepseek_vl2_checkpoint), "utf-8")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["dsvl-tune", *arguments])
        main()
        return capsys.readouterr().out

    printed = run("fit", "--config", "small.yaml")
    assert (
        "linear layers of attention, mlp and the 4 stacks of experts, double quantized" in printed
    )
    plan = json.loads(Path("runs/small/plan.json").read_text(encoding="utf-8"))
    assert plan["experts"]["quantization"] == "nf4" and plan["experts"]["quantized_layers"] == 4
    with next(Path("runs/small/metrics").rglob("metrics.csv")).open(encoding="utf-8") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])

    printed = run("merge", "runs/small", "--out", "merged", "--layout", "original")
    assert "trained on the base in 4 bits (nf4)" in printed
    report = json.loads(Path("merged/merge_report.json").read_text(encoding="utf-8"))
    assert report["changed_tensors"]["experts"] == 4
    assert report["float64"]["mean_logit_difference"] <= report["float64"]["mean_bound"]
