"""Fine-tuning from Python: the same run as the command line's, with resume and clear errors."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, cast

import lightning as L
import pytest
import torch
import yaml

import dsvl_tune
from dsvl_tune.datamodules import ChartsDataModule
from dsvl_tune.evaluation.metrics import RelaxedAccuracy
from dsvl_tune.recipe.describe import describe_run
from dsvl_tune.recipe.parser import recipe_parser
from dsvl_tune.recipe.recipe import Recipe

TRAINER = {"max_steps": 3, "accelerator": "cpu", "enable_progress_bar": False}


def charts(checkpoint: Path | str, **changes: Any) -> ChartsDataModule:
    settings: dict[str, Any] = {
        "train_charts": 6,
        "validation_charts": 1,
        "test_charts": 2,
        "retention_scenes": 0,
        "questions": 2,
        "batch_size": 2,
        "system_prompt": "",
    }
    return ChartsDataModule(checkpoint=str(checkpoint), **{**settings, **changes})


def module(checkpoint: Path | str, **changes: Any) -> dsvl_tune.FinetuneModule:
    parts = {"aligner": dsvl_tune.PartPlan("lora", rank=4)}
    settings: dict[str, Any] = {"parts": parts, "lr": 1e-3, "max_new_tokens": 2}
    return dsvl_tune.FinetuneModule(str(checkpoint), **{**settings, **changes})


class StopAfterFirstStep(L.Callback):
    """Sends SIGTERM in the first step, as a scheduler does."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_from_python_is_that_of_the_command_line(
    hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `config.yaml`, given to the command line, gives the same run bit for bit."""
    monkeypatch.chdir(tmp_path)
    run = dsvl_tune.fit(
        module(hybrid_checkpoint), charts(hybrid_checkpoint), run_name="python", **TRAINER
    )
    assert run.finished
    assert run.folder == Path("runs/python")
    assert run.before.keys() == run.after.keys()
    assert run.summary["steps"] == 3
    assert (run.adapter / "adapter_model.safetensors").is_file()
    recipe = Recipe.load(run.folder / "config.yaml", {"run_name": "shell"})
    again = dsvl_tune.fit(
        recipe.model,
        recipe.data,
        **recipe.run_options,
        settings=recipe.settings,
        **recipe.trainer,
    )
    assert again.folder == Path("runs/shell")
    one, other = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (run.folder, again.folder)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_stopped_run_is_resumed_by_the_same_call(
    hybrid_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"run_dir": tmp_path, **TRAINER}
    model, data = module(hybrid_checkpoint), charts(hybrid_checkpoint)
    stopped = dsvl_tune.fit(model, data, callbacks=[StopAfterFirstStep()], **options)
    assert not stopped.finished
    assert stopped.exit_code == 75
    resumed = dsvl_tune.fit(module(hybrid_checkpoint), charts(hybrid_checkpoint), **options)
    assert resumed.finished
    assert resumed.folder == stopped.folder
    assert "from last.ckpt" in capsys.readouterr().out


def test_arguments_are_written_as_a_recipe_holds_them(tmp_path: Path) -> None:
    recipe = """
seed_everything: 7
model: {lr: 0.5, parts: {aligner: {mode: lora, rank: 4}}, betas: [0.9, 0.99]}
data:
  class_path: dsvl_tune.datamodules.ChartsDataModule
  init_args:
    questions: 3
    metrics: [{class_path: dsvl_tune.evaluation.metrics.relaxed_accuracy.RelaxedAccuracy}]
trainer: {max_steps: 5}
run_name: mixed
monitor: val/loss
"""
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    parsed = Recipe.load(tmp_path / "recipe.yaml").settings
    parts = {"aligner": dsvl_tune.PartPlan("lora", rank=4)}
    model = dsvl_tune.FinetuneModule(lr=0.5, parts=parts, betas=(0.9, 0.99))
    data = ChartsDataModule(questions=3, metrics=[RelaxedAccuracy()], seed=7)
    options = {"run_name": "mixed", "monitor": "val/loss"}
    assert (
        describe_run(model, data, {"max_steps": 5, "callbacks": [L.Callback()]}, options) == parsed
    )


def test_what_cannot_be_trained_together_is_refused(hybrid_checkpoint: Path) -> None:
    with pytest.raises(dsvl_tune.UserError, match="both the same checkpoint"):
        dsvl_tune.fit(module(hybrid_checkpoint), charts("embedded"))
    with pytest.raises(dsvl_tune.UserError, match="monitor"):
        dsvl_tune.fit(module(hybrid_checkpoint), charts(hybrid_checkpoint), monitor=cast("str", 3))


class Forgetful(RelaxedAccuracy):
    def __init__(self, margin: float = 0.1) -> None:
        super().__init__(margin)


def test_a_description_names_what_an_object_does_not_store() -> None:
    data = ChartsDataModule(metrics=[Forgetful()])
    with pytest.raises(dsvl_tune.UserError, match=r"Forgetful.*self\.margin"):
        describe_run(dsvl_tune.FinetuneModule(), data, {}, {})


def test_the_public_names_are_documented_and_lazy() -> None:
    for name in dsvl_tune.__all__:
        assert getattr(dsvl_tune, name).__doc__
        assert name in dir(dsvl_tune)
    with pytest.raises(AttributeError, match="fitt"):
        dsvl_tune.fitt  # noqa: B018


def test_settings_of_a_recipe_survive_being_written_and_read(tmp_path: Path) -> None:
    parser = recipe_parser()
    settings = Recipe.parse(parser, ["--config", "charts_lora"]).settings
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert Recipe.load(tmp_path / "config.yaml").settings == settings
