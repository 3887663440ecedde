"""Weights that are finite, but so large that activations overflow, end every command."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import write_recipe
from safetensors.torch import load_file, save_file

from dsvl_tune.cli.main import main

DECODER = "model.language_model.layers.1.mlp"
TOWER = "model.vision_model.encoder.layers.0.mlp.fc2"
SPOILED = {
    DECODER: [f"{DECODER}.{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")],
    TOWER: [
        f"model.vision_model.encoder.layers.0.{name}.weight"
        for name in ("layer_norm2", "mlp.fc1", "mlp.fc2")
    ],
}
"""First module whose output overflows -> the weights that are too large together."""


def spoiled(checkpoint: Path, folder: Path, layer: str, value: float = 1e18) -> Path:
    """A copy of a checkpoint with weights of one value."""
    shutil.copytree(checkpoint, folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in SPOILED[layer]:
        tensors[name] = torch.full_like(tensors[name], value)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def error_of(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The message of a command, which must end with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2, error
    return error


@pytest.mark.parametrize(
    ("command", "layer"),
    [
        (["fit"], DECODER),
        (["validate"], TOWER),
        (["test"], DECODER),
        (["predict", "--out", "answers.jsonl"], TOWER),
        (["chat", "--prompt", "How many?"], DECODER),
    ],
    ids=["fit", "validate", "test", "predict", "chat"],
)
def test_the_first_part_is_named(
    command: list[str],
    layer: str,
    hybrid_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    base = spoiled(hybrid_checkpoint, tmp_path / "base", layer)
    recipe = write_recipe(tmp_path, base)
    given = ["--model", str(base)] if command[0] == "chat" else ["--config", str(recipe)]
    error = error_of([*command, *given], capsys, monkeypatch)
    assert "not finite" in error or "nan" in error
    assert f"(first in {layer}" in error and ", float32)" in error
    assert not (tmp_path / "answers.jsonl").exists()
    assert not list(tmp_path.glob("runs/*/summary.json"))


def test_a_loss_in_training_names_it(
    hybrid_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Held-out rows of text alone do not pass through the tower; the rows of training do."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held.jsonl").write_text(json.dumps({"question": "a", "answer": "b"}))
    files = dict.fromkeys(("validation", "test"), str(tmp_path / "held.jsonl"))
    data = {
        "class_path": "dsvl_tune.datamodules.InstructDataModule",
        "init_args": {"train": str(train_file(tmp_path)), **files, "system_prompt": ""},
    }
    base = spoiled(hybrid_checkpoint, tmp_path / "base", TOWER)
    error = error_of(
        ["fit", "--config", str(write_recipe(tmp_path, base, data=data))], capsys, monkeypatch
    )
    assert "step 1: loss is nan" in error and f"(first in {TOWER}, float32)" in error


def train_file(folder: Path) -> Path:
    """Four rows that show a picture."""
    Image.new("RGB", (40, 30), (200, 10, 10)).save(folder / "a.png")
    row = json.dumps({"image": "a.png", "question": "Which color?", "answer": "red"})
    (folder / "train.jsonl").write_text("".join(f"{row}\n" for _ in range(4)))
    return folder / "train.jsonl"


def test_nothing_is_merged_into_such_a_base(
    whole_run: Path,
    hybrid_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = spoiled(hybrid_checkpoint, tmp_path / "base", TOWER)
    out = tmp_path / "merged"
    error = error_of(
        ["merge", str(whole_run), "--base", str(base), "--out", str(out)], capsys, monkeypatch
    )
    assert f"logits of the merged model are not finite (first in {TOWER}, float32)" in error
    assert not out.exists()


@pytest.mark.parametrize("value", [1e19, 3e38])
def test_a_weight_whose_square_overflows_is_refused(
    hybrid_checkpoint: Path,
    tmp_path: Path,
    value: float,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Norms make zeros of it: every logit would be finite, and equal for every question."""
    base = spoiled(hybrid_checkpoint, tmp_path / "base", DECODER, value)
    error = error_of(["chat", "--model", str(base), "--prompt", "How many?"], capsys, monkeypatch)
    assert f"{DECODER}.down_proj.weight" in error or f"{DECODER}.gate_proj.weight" in error
    assert "model.safetensors: tensor" in error and "above 1e+18" in error
