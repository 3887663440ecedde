"""Answers of the base before training, taken from an earlier run where all is the same."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from runs import assert_equal_runs, fit, write_recipe
from safetensors.torch import load_file, save_file

from dsvl_tune.core.storage.cache_folder import cache_folder
from dsvl_tune.core.types import Prompts
from dsvl_tune.training.run import base_answers
from dsvl_tune.training.run.trainer import run_callbacks

REUSED = "test, before: 6 answers of the base are those of an earlier run"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def first_run(
    hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run, and the cache folder that it filled."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return run(folder, hybrid_checkpoint), folder / "cache"


@pytest.fixture
def filled_cache(first_run: tuple[Path, Path], own_cache: None, tmp_path: Path) -> Path:
    """A copy of that cache folder, in use; gives the folder of the run."""
    shutil.copytree(first_run[1], tmp_path / "cache")
    return first_run[0]


def run(folder: Path, checkpoint: Path, **changes: Any) -> Path:
    """A run of one step; its folder."""
    changes = {"trainer__max_steps": 1, "trainer__log_every_n_steps": 1, **changes}
    assert fit(write_recipe(folder, checkpoint, **changes)) == 0
    return folder / "runs" / "run"


def kept() -> list[Path]:
    return sorted(cache_folder(base_answers.FOLDER).glob("*.json"))


def test_a_second_run_has_the_same_results(
    filled_cache: Path,
    hybrid_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = kept()
    second = run(tmp_path / "second", hybrid_checkpoint)
    assert REUSED in capsys.readouterr().out
    third = run(tmp_path / "third", hybrid_checkpoint, model__reuse_base_answers=False)
    assert REUSED not in capsys.readouterr().out
    assert_equal_runs(filled_cache, second)
    assert_equal_runs(filled_cache, third)
    assert kept() == files and len(files) == 1


def test_what_answers_do_not_depend_on(
    filled_cache: Path,
    hybrid_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rates, ranks and training rows differ in a sweep."""
    parts = {"aligner": {"mode": "full"}, "language_model": {"mode": "lora", "rank": 2}}
    changes = {"model__lr": 0.1, "model__parts": parts, "data__init_args__train_charts": 7}
    second = run(tmp_path / "second", hybrid_checkpoint, **changes)
    assert REUSED in capsys.readouterr().out
    changes["model__reuse_base_answers"] = False
    assert_equal_runs(run(tmp_path / "alone", hybrid_checkpoint, **changes), second)


def other_base(checkpoint: Path, folder: Path) -> Path:
    """A copy with one weight changed."""
    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    name = "model.language_model.norm.weight"
    tensors[name] = tensors[name] * 1.001
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"model__max_new_tokens": 4},
        {"model__kernels": "off"},
        {"data__init_args__system_prompt": "Answer."},
        {"model__lora_variant": "dora"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_answers_depend_on(
    changes: dict[str, Any],
    filled_cache: Path,
    hybrid_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(tmp_path / "second", hybrid_checkpoint, **changes)
    assert REUSED not in capsys.readouterr().out


def test_another_base(
    filled_cache: Path,
    hybrid_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(tmp_path / "other", other_base(hybrid_checkpoint, tmp_path / "base"))
    assert REUSED not in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[[1]]", "", "[", "{}", "[[1, 2], [3]]", "null", "[[1e99]]"])
def test_a_damaged_file_is_not_used(content: str, tmp_path: Path) -> None:
    answers = base_answers.BaseAnswers("key", tmp_path)
    prompts = two_prompts()
    answers.keep(prompts, torch.tensor([[1, 2], [3, 4]]))
    assert answers.read(prompts).tolist() == [[1, 2], [3, 4]]
    assert base_answers.BaseAnswers("other", tmp_path).read(prompts) is None
    for path in tmp_path.iterdir():
        path.write_text(content)
    assert answers.read(prompts) is None


def two_prompts() -> Prompts:
    return Prompts(
        vision_inputs={"pixel_values": torch.rand(1, 3, 4, 4, dtype=torch.bfloat16)},
        image_index=torch.tensor([0, 0]),
        input_ids=torch.ones(2, 5, dtype=torch.int64),
        attention_mask=torch.ones(2, 5, dtype=torch.int64),
        image_counts=[1, 1],
        references=[[], []],
        question_types=["", ""],
        questions=["a", "b"],
        sources=["a", "b"],
        numbers=[0, 1],
    )


def test_every_tensor_of_a_batch_counts(tmp_path: Path) -> None:
    answers = base_answers.BaseAnswers("key", tmp_path)
    prompts = two_prompts()
    answers.keep(prompts, torch.tensor([[1], [2]]))
    for name in ("input_ids", "attention_mask", "image_index"):
        assert answers.read(replace(prompts, **{name: getattr(prompts, name) + 1})) is None
    pixels = {"pixel_values": prompts.vision_inputs["pixel_values"] * 2}
    assert answers.read(replace(prompts, vision_inputs=pixels)) is None
    assert answers.read(replace(prompts, feature_keys=["a"])) is None
    assert answers.read(replace(prompts, sources=["moved", "b"])) is not None


class SpoilFirst(L.Callback):
    """A callback of one's own that changes the model before the first step."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.network.get_input_embeddings().weight.data.mul_(2)


def test_with_callbacks_of_ones_own_the_model_answers(
    filled_cache: Path,
    hybrid_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    callbacks = lambda *args, **more: [SpoilFirst(), *run_callbacks(*args, **more)]  # noqa: E731
    monkeypatch.setattr("dsvl_tune.training.run.trainer.run_callbacks", callbacks)
    files = kept()
    run(tmp_path / "second", hybrid_checkpoint)
    assert REUSED not in capsys.readouterr().out
    assert kept() == files


def test_the_folder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_answers, "KEPT_BATCHES", 3)
    answers = base_answers.BaseAnswers("key", tmp_path)
    answers.remove_oldest()
    for number in range(5):
        (tmp_path / f"{number}.json").touch()
    answers.remove_oldest()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_cannot_be_written_keeps_nothing(
    hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file, no folder")
    run(tmp_path / "first", hybrid_checkpoint)
