"""Every family from a random small checkpoint to answers: fit, kill, resume, merge, chat, predict.

A family is walked by naming its fixture in `CHECKPOINTS`, and what it trains in `PARTS` where its
parts are not DeepSeek-VL's.
"""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Commands, answers_in, assert_equal_runs, last, wait_for, write_recipe
from safetensors.torch import load_file

from dsvl_tune.core.checkpoint.weight_headers import weight_files
from dsvl_tune.demo.charts import chart_row

CHECKPOINTS = {
    "DeepSeek-VL": "hybrid_checkpoint",
    "Janus": "janus_checkpoint",
    "DeepSeek-VL2": "deepseek_vl2_checkpoint",
}
"""Family -> session fixture that gives the folder of a random tiny checkpoint of it."""

PARTS: dict[str, dict[str, Any]] = {
    "DeepSeek-VL2": {
        "projector": {"mode": "full"},
        "tile_embeddings": {"mode": "full"},
        "experts": {"mode": "full"},
        "attention": {"mode": "lora", "rank": 4},
        "mlp": {"mode": "lora", "rank": 4},
    },
}
"""Family -> `model.parts` of its recipe, instead of a LoRA on language_model and a full aligner."""

MERGED = {"transformers": "merged", "original": "merged_original"}
WITHIN_S = 300
"""Bound on a command, however busy the machine."""


class Walk:
    """A folder in which commands run one after the other, and the base checkpoint of its runs."""

    def __init__(self, folder: Path, checkpoint: Path, commands: Commands) -> None:
        self.folder = folder
        self.checkpoint = checkpoint
        self.commands = commands

    def run(self, *arguments: str, within: str = "") -> list[str]:
        """The lines that a command prints, progress bars left out; it must succeed.

        Args:
            arguments: of the command.
            within: subfolder that it runs in.
        """
        folder = self.folder / within
        log = folder / "command.log"
        log.unlink(missing_ok=True)
        process = self.commands.start(folder, *arguments, log=log.name)
        code = self.commands.ends(process, WITHIN_S)
        printed = log.read_text(encoding="utf-8")
        assert code == 0, printed
        return [line for line in printed.splitlines() if line and "%|" not in line]


@pytest.fixture(scope="module", params=CHECKPOINTS)
def walk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, commands: Commands
) -> Walk:
    """A run that was killed and resumed, merged in both layouts; and one that never stopped."""
    checkpoint = request.getfixturevalue(CHECKPOINTS[request.param])
    walk = Walk(tmp_path_factory.mktemp("walk"), checkpoint, commands)
    for name in ("whole", "killed"):
        write_recipe(
            walk.folder / name,
            checkpoint,
            checkpoint_every_steps=1,
            trainer__log_every_n_steps=1,
            **({"model__parts": PARTS[request.param]} if request.param in PARTS else {}),
        )
    fit = ("fit", "--config", "run.yaml")
    walk.run(*fit, within="whole")

    run = walk.folder / "killed" / "runs" / "run"
    process = commands.start(walk.folder / "killed", *fit)
    saved = run / "checkpoints" / "last.ckpt"
    wait_for(lambda: saved.exists() and last(run)["global_step"] >= 2, WITHIN_S)
    os.killpg(process, signal.SIGKILL)
    assert commands.ends(process, WITHIN_S) == -signal.SIGKILL
    assert any("resum" in line for line in walk.run(*fit, within="killed"))

    for layout, out in MERGED.items():
        walk.run("merge", "killed/runs/run", "--out", out, "--layout", layout, "--rows", "2")
    return walk


def test_a_killed_run_ends_as_one_that_never_stopped(walk: Walk) -> None:
    runs = [walk.folder / name / "runs" / "run" for name in ("whole", "killed")]
    assert_equal_runs(*runs)
    with next((runs[0] / "metrics").rglob("metrics.csv")).open(encoding="utf-8") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses[-1] < losses[0]


def test_both_layouts_hold_the_same_tensors(walk: Walk) -> None:
    walk.run("convert", MERGED["original"], "converted", "--to", "transformers")
    one, two = (
        {name: load_file(path)[name] for name, path in weight_files(walk.folder / out).items()}
        for out in ("converted", MERGED["transformers"])
    )
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def test_chat_answers_alike_with_adapter_and_merged(walk: Walk) -> None:
    (conversation, *_) = chart_row(5, "test")
    conversation.images[0].content.save(walk.folder / "chart.png")  # type: ignore[union-attr]
    question = ["--image", "chart.png", "--prompt", "How many bars?", "--max_new_tokens", "6"]
    models = [
        ["--model", str(walk.checkpoint), "--adapter", "killed/runs/run/adapter"],
        *(["--model", out] for out in MERGED.values()),
    ]
    answers = [walk.run("chat", *model, *question) for model in models]
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("out", MERGED.values())
def test_predict_answers_as_the_run_did_at_its_end(walk: Walk, out: str) -> None:
    walk.run(
        *("predict", "--config", "killed/run.yaml", "--model.checkpoint", out),
        *("--out", f"{out}.jsonl"),
    )
    kept = walk.folder / "killed" / "runs" / "run" / "predictions" / "test_after.jsonl"
    assert answers_in(walk.folder / f"{out}.jsonl") == answers_in(kept)
