"""Faults that are made to happen inside a run: what is said, and what is kept."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from runs import Commands, assert_equal_runs, fit, last, write_recipe

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.sampling.epoch_sampler import EpochSampler
from dsvl_tune.training.run.trainer import run_callbacks

ROWS = 8
ODD = "Zebra"
BAD_STEP = 5
(BAD_ROW,) = EpochSampler(ROWS, 1, seed=1).rows_at(BAD_STEP - 1)


@pytest.fixture
def rows_recipe(hybrid_checkpoint: Path, tmp_path: Path) -> Path:
    """Rows of text in files; a step is a row."""
    rows = [
        {"question": ODD if i == BAD_ROW else "plain question", "answer": f"answer {i}"}
        for i in range(ROWS)
    ]
    for name, part in {"train": rows, "held": rows[:2]}.items():
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in part), encoding="utf-8"
        )
    files = dict.fromkeys(("validation", "test"), str(tmp_path / "held.jsonl"))
    return write_recipe(
        tmp_path,
        hybrid_checkpoint,
        data={
            "class_path": "dsvl_tune.datamodules.InstructDataModule",
            "init_args": {
                "train": str(tmp_path / "train.jsonl"),
                **files,
                "batch_size": 1,
                "system_prompt": "",
            },
        },
        trainer__max_steps=ROWS,
        trainer__accumulate_grad_batches=1,
        trainer__val_check_interval=100,
        model__parts={"aligner": {"mode": "frozen"}, "language_model": {"mode": "lora", "rank": 4}},
        checkpoint_every_steps=1,
    )


class Poison(L.Callback):
    """Makes the embedding of a token of the `ODD` row NaN; keeps the trained weights by step."""

    def __init__(self) -> None:
        self.after: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tokenizer = pl_module.processor.tokenizer
        plain = set(tokenizer.encode("0 1 2 3 4 5 6 7 8 9 plain question answer User: Assistant:"))
        odd = next(token for token in tokenizer.encode(ODD) if token not in plain)
        pl_module.network.get_input_embeddings().weight.data[odd] = float("nan")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        trained = {
            name: p.detach().clone() for name, p in pl_module.named_parameters() if p.requires_grad
        }
        self.after.append(trained)


def watch(callback: L.Callback, monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks = lambda *args, **kept: [callback, *run_callbacks(*args, **kept)]  # noqa: E731
    monkeypatch.setattr("dsvl_tune.training.run.trainer.run_callbacks", callbacks)


def test_a_loss_that_is_nan_stops_before_it_does_harm(
    rows_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(poison := Poison(), monkeypatch)
    with pytest.raises(UserError) as raised:
        fit(rows_recipe)
    assert f"step {BAD_STEP}: loss is nan" in str(raised.value)
    assert f"Samples in this step: {rows_recipe.parent}/train.jsonl:{BAD_ROW + 1}." in str(
        raised.value
    )
    kept = last(rows_recipe.parent / "runs" / "run")
    assert kept["global_step"] == BAD_STEP - 1 == len(poison.after)
    for name, tensor in poison.after[-1].items():
        assert torch.equal(tensor, kept["state_dict"][name])


def test_allowed_nonfinite_steps_change_nothing(
    rows_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch(poison := Poison(), monkeypatch)
    assert (
        fit(rows_recipe, "--model.max_nonfinite_steps", "1", "--trainer.max_steps", str(ROWS)) == 0
    )
    said = next(line for line in capsys.readouterr().out.splitlines() if "loss is nan" in line)
    assert (
        f"step {BAD_STEP}:" in said
        and f"train.jsonl:{BAD_ROW + 1}." in said
        and "1 of at most 1" in said
    )
    assert len(poison.after) == ROWS
    unchanged = [
        all(torch.equal(before[name], tensor) for name, tensor in after.items())
        for before, after in pairwise(poison.after)
    ]
    assert [step for step, same in enumerate(unchanged, start=2) if same] == [BAD_STEP]
    # The count is kept: the bad row of the second epoch is one too many, also after a resume.
    with pytest.raises(UserError, match=r"--model.max_nonfinite_steps 2"):
        fit(
            rows_recipe,
            "--model.max_nonfinite_steps",
            "1",
            "--trainer.max_steps",
            str(2 * ROWS),
            "--ckpt_path",
            "last",
        )


class InfiniteGradient(L.Callback):
    """Lets a gradient overflow in the third step, while the loss stays as it is."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any
    ) -> None:
        if trainer.global_step == 2:
            parameter = next(p for p in pl_module.parameters() if p.requires_grad)
            parameter.register_hook(lambda gradient: gradient * 1e38 * 1e38)


def test_a_gradient_that_is_not_finite_stops_too(
    hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(InfiniteGradient(), monkeypatch)
    recipe = write_recipe(tmp_path, hybrid_checkpoint, checkpoint_every_steps=1)
    with pytest.raises(
        UserError, match=r"step 3: a gradient is not finite.*Samples in this step: .+, "
    ):
        fit(recipe)
    assert last(tmp_path / "runs" / "run")["global_step"] == 2


class KillWorker(L.Callback):
    """Kills a data worker, as the system does when memory is short."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGKILL)
                worker.join()


def test_a_killed_data_worker_ends_the_run_with_a_message_and_the_same_command_resumes(
    whole_run: Path, hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(
        tmp_path, hybrid_checkpoint, checkpoint_every_steps=1, data__init_args__num_workers=1
    )
    with monkeypatch.context() as patch:
        watch(KillWorker(), patch)
        with pytest.raises(
            UserError, match=r"a data worker died.*num_workers \(now 1\).*resume.*last.ckpt"
        ):
            fit(recipe)
    assert fit(recipe) == 0
    assert_equal_runs(whole_run, tmp_path / "runs" / "run")


def test_no_memory_says_which_keys_to_change_and_by_how_much(
    hybrid_checkpoint: Path, tmp_path: Path, commands: Commands
) -> None:
    write_recipe(
        tmp_path,
        hybrid_checkpoint,
        data__init_args__batch_size=512,
        data__init_args__train_charts=512,
    )
    process = commands.start(tmp_path, "fit", "--config", "run.yaml", memory_bytes=1700 * 2**20)
    assert commands.ends(process, within_s=300) == 2
    message = (tmp_path / "log").read_text(encoding="utf-8")
    assert "error: out of memory (tried to allocate" in message and "512 rows of up to" in message
    assert (
        "data.batch_size from 512 to 256 with trainer.accumulate_grad_batches from 2 to 4"
        in message
    )
    assert (
        "model.gradient_checkpointing true" in message
        and "No run checkpoint was saved yet" in message
    )
