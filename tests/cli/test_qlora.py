"""A run on a 4-bit base from outside: manifest, resume, answers, merge into the base, chat."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from runs import answers_in
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from dsvl_tune.api.merging import held_out_prompts
from dsvl_tune.cli.main import main
from dsvl_tune.export.verify import answer
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import load_trained
from dsvl_tune.recipe.recipe import Recipe
from dsvl_tune.training.run.trainer import run_callbacks

RECIPE = """
model:
  checkpoint: {checkpoint}
  preset: qlora
  parts:
    language_model: {{mode: lora, rank: 4}}
    aligner: {{mode: full}}
  lr: 0.002
  warmup_steps: 2
  max_new_tokens: 3
  dtype: bfloat16
  gradient_checkpointing: true
data:
  class_path: dsvl_tune.datamodules.ChartsDataModule
  init_args:
    train_charts: 8
    validation_charts: 1
    test_charts: 2
    retention_scenes: 0
    batch_size: 2
    questions: 2
trainer: {{max_steps: 4, val_check_interval: 1, precision: bf16-mixed, enable_progress_bar: false}}
"""


def run(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dsvl-tune", *arguments])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


class InterruptAt(L.Callback):
    """Presses Ctrl-C while a given micro-batch is in work."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == 2:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def trained(wide_hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and its run."""
    folder = tmp_path_factory.mktemp("qlora")
    (folder / "tiny.yaml").write_text(
        RECIPE.format(checkpoint=wide_hybrid_checkpoint), encoding="utf-8"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("fit", "--config", "tiny.yaml") == 0
    return folder


@pytest.fixture(autouse=True)
def there(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)


def test_the_run_says_what_was_in_4_bits_and_keeps_what_trained() -> None:
    plan = json.loads(Path("runs/tiny/plan.json").read_text(encoding="utf-8"))
    assert [part for part, how in plan.items() if "quantization" in how] == ["language_model"]
    assert (
        plan["language_model"]["quantization"] == "nf4"
        and plan["language_model"]["quantized_layers"] == 14
    )
    manifest = json.loads(Path("runs/tiny/manifest.json").read_text(encoding="utf-8"))
    assert manifest["quantization"] == "nf4" and "bitsandbytes" in manifest["libraries"]
    kept = torch.load("runs/tiny/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert Counter("lora_" in name for name in kept) == {True: 28, False: 6}
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    saved = load_file("runs/tiny/adapter/adapter_model.safetensors")
    assert Counter("lora_" in name for name in saved) == {True: 28, False: 6}


def test_stopped_and_resumed_equals_never_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "dsvl_tune.training.run.trainer.run_callbacks",
            lambda *arguments, **options: [InterruptAt(), *run_callbacks(*arguments, **options)],
        )
        assert run("fit", "--config", "tiny.yaml") == 130
    assert run("fit", "--config", "tiny.yaml", "--ckpt_path", "last") == 0
    whole, resumed = (
        torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
        for name in ("tiny", "tiny-2")
    )
    assert whole["global_step"] == resumed["global_step"] == 4
    assert all(
        torch.equal(tensor, resumed["state_dict"][name])
        for name, tensor in whole["state_dict"].items()
    )


def test_merging_into_the_base_as_its_files_have_it(
    wide_hybrid_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("merge", "runs/tiny", "--out", "merged") == 0
    said = capsys.readouterr().out
    assert (
        "trained on the base in 4 bits (nf4)" in said and said.count("greedy answers equal:") == 2
    )
    assert "quantization_config" not in Path("merged/config.json").read_text(encoding="utf-8")
    audit = json.loads(Path("merged/audit.json").read_text(encoding="utf-8"))
    assert audit["plan"]["language_model"]["quantized_layers"] == 14
    before, after = (
        Weights(open_checkpoint(folder)) for folder in (wide_hybrid_checkpoint, Path("merged"))
    )
    changed = {
        name for name in before.shapes if not torch.equal(before.read(name), after.read(name))
    }
    assert Counter(name.split(".")[1] for name in changed) == {"language_model": 14, "aligner": 6}

    recipe = Recipe.load(Path("runs/tiny/config.yaml"), {"data.init_args.eval_batch_size": 16})
    prompts = held_out_prompts(recipe.data)
    logits = {}
    for bits, model in {
        16: create_model(open_checkpoint(wide_hybrid_checkpoint)),
        4: create_model(open_checkpoint(wide_hybrid_checkpoint), quantization="nf4"),
    }.items():
        load_trained(model, Path("runs/tiny/adapter"))
        logits[bits] = answer(model, prompts)[0]
    plain = answer(AutoModelForImageTextToText.from_pretrained("merged").eval(), prompts)[0]
    report = json.loads(Path("merged/merge_report.json").read_text(encoding="utf-8"))
    assert (plain - logits[16]).abs().mean() <= report["mean_bound"]
    found = report["trained_in_4_bits"]
    assert found["max_logit_difference"] == pytest.approx(
        float((logits[4] - logits[16]).abs().max())
    )
    assert found["mean_logit_difference"] == pytest.approx(
        float((logits[4] - logits[16]).abs().mean())
    )
    assert found["mean_logit_difference"] > 100 * report["mean_logit_difference"]


def test_answers_with_the_4_bit_base(capsys: pytest.CaptureFixture[str]) -> None:
    """`predict` answers as the run did after training."""
    config = "runs/tiny/config.yaml"
    assert run("predict", "--config", config, "--ckpt_path", "best", "--out", "answers.jsonl") == 0
    kept = Path("runs/tiny/predictions/test_after.jsonl")
    assert answers_in(Path("answers.jsonl")) == answers_in(kept)
    assert run("test", "--config", config, "--ckpt_path", "best") == 0
    assert "relaxed_accuracy" in capsys.readouterr().out.partition("answers.jsonl")[2]


def test_chat_takes_the_adapter(
    wide_hybrid_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = Path(__file__).parents[2] / "examples" / "chart.png"
    assert (
        run(
            "chat",
            "--model",
            str(wide_hybrid_checkpoint),
            "--adapter",
            "runs/tiny/adapter",
            "--image",
            str(picture),
            "--prompt",
            "How many?",
            "--max_new_tokens",
            "4",
        )
        == 0
    )
    assert capsys.readouterr().out.strip()


def test_full_training_of_the_part_in_4_bits_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--config", "tiny.yaml", "--model.parts.language_model.mode", "full") == 2
    assert "language_model is to be fully trained" in capsys.readouterr().err
