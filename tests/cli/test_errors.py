"""Invalid input: one message that names it, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from command_line import refused
from PIL import Image

RECIPE = {
    "model": {"checkpoint": "", "parts": {"aligner": {"mode": "lora", "rank": 4}}},
    "data": {
        "class_path": "dsvl_tune.datamodules.ChartsDataModule",
        "init_args": {"train_charts": 8, "validation_charts": 2, "test_charts": 2},
    },
    "trainer": {"max_steps": 2},
}


@pytest.fixture
def recipe(tmp_path: Path, hybrid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe, alone in the working directory."""
    monkeypatch.chdir(tmp_path)
    RECIPE["model"]["checkpoint"] = str(hybrid_checkpoint)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model.lrr", "3"], ["model.lrr", "Did you mean 'model.lr'"]),
        (["--trainer.max_stps", "3"], ["trainer.max_stps", "Did you mean 'trainer.max_steps'"]),
        (["--data.train_chart", "3"], ["train_chart", "Did you mean 'train_charts'"]),
        (["--model.parts.aligner.rnak", "3"], ["rnak", "Did you mean 'rank'"]),
        (["--model.parts.alinger.mode", "full"], ["alinger", "Did you mean 'aligner'"]),
        (["--model.parts.downsample.mode", "lora"], ["downsample cannot have lora"]),
        (["--model.preset", "lroa"], ["model.preset", "'lora'"]),
        (
            ["--model.family", "Janus"],
            ["is a DeepSeek-VL checkpoint, and this recipe is for Janus", "recipe for DeepSeek-VL"],
        ),
        (["--model.checkpoint", "/no/such/folder"], ["/no/such/folder", "no such folder"]),
        (["--data.kinds", "[uprigth]"], ["kinds", "'upright'", "'pie'"]),
        (["--ckpt_path", "best"], ["best: no such file. Give a run checkpoint, or last."]),
        (["--ckpt_path", "last"], ["there is no run", "Start without"]),
        (["--monitor", "val/accuracy"], ["monitor", "val/relaxed_accuracy"]),
    ],
)
def test_wrong_keys(
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    named: list[str],
) -> None:
    refused(["fit", "--config", str(recipe), *arguments], capsys, monkeypatch, named)


def test_wrong_key_in_the_file(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write_text(yaml.safe_dump({**RECIPE, "traner": {"max_steps": 3}}), encoding="utf-8")
    named = ["traner.max_steps", "Did you mean 'trainer.max_steps'"]
    refused(["fit", "--config", str(recipe)], capsys, monkeypatch, named)


def test_checkpoint_of_another_model(
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    error = refused(
        ["fit", "--config", str(recipe), "--model.checkpoint", str(tmp_path / "llama")],
        capsys,
        monkeypatch,
    )
    assert "'llama'" in error
    assert "DeepSeek-VL" in error


def test_recipe_that_does_not_exist(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused(["fit", "--config", "charts_lroa"], capsys, monkeypatch)
    assert "Did you mean 'charts_lora'" in error


GOOD = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}'


def asking(content: object, answer: str = "b", role: str = "user", **more: object) -> str:
    """A row with one question."""
    messages = [{"role": role, "content": content}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, **more})


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (asking("<image>?", images=["none.png"]), ["none.png", "no such file"]),
        (asking("<image>?", images=["cut.png"]), ["cut.png", "truncated"]),
        (asking("<image>?", images=["text.png"]), ["text.png", "not an image"]),
        (asking("<image>?", images=[]), ["1 image placeholder(s)", "0 image(s)"]),
        (asking("?", file_name="whole.png"), ["no image is read from 'file_name'"]),
        (asking("<video>?"), ["messages[0].content", "<video> in the text"]),
        (asking("?", role="usr"), ["messages[0].role", "'usr'", "Did you mean 'user'"]),
        (asking("?", answer=" "), ["turn 2 (assistant)", "empty"]),
    ],
)
def test_invalid_rows(
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    row: str,
    named: list[str],
) -> None:
    """The message has the file, the row and the reason; there is no run folder."""
    Image.effect_noise((64, 64), 90).save("whole.png")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:1000])
    Path("text.png").write_text("no picture", encoding="utf-8")
    Path("rows.jsonl").write_text("\n".join([GOOD] * 4 + [row]), encoding="utf-8")
    data = ["--data", "dsvl_tune.datamodules.InstructDataModule", "--data.train", "rows.jsonl"]
    command = ["fit", "--config", str(recipe), *data, "--data.validation_rows", "1"]
    refused(command, capsys, monkeypatch, ["rows.jsonl:5", *named])


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["merge", "runs/none", "--rows", "-3"], "rows"),
        (["preview", "--config", "recipe.yaml", "--rows", "-1"], "--rows"),
        (["estimate-memory", "--config", "recipe.yaml", "--images", "-2"], "--images"),
        (["estimate-memory", "--config", "recipe.yaml", "--tokens", "0"], "--tokens"),
        (
            ["estimate-memory", "--config", "recipe.yaml", "--tokens", "9999999"],
            "9999999: the checkpoint's context is",
        ),
    ],
)
def test_numbers_out_of_range(
    command: list[str],
    named: str,
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert named in refused(command, capsys, monkeypatch)
