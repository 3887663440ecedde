"""Optimizers and schedules by class path: groups for each part, resume, and what is refused."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import transformers
from runs import assert_equal_runs, fit, last, write_recipe
from torch import nn
from torch.optim import SGD, AdamW, Muon
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from dsvl_tune.core.errors import UserError
from dsvl_tune.recipe.parser import recipe_parser
from dsvl_tune.recipe.recipe import Recipe
from dsvl_tune.training.muon import MuonAdamW
from dsvl_tune.training.run.trainer import run_callbacks
from dsvl_tune.training.schedules import make_schedule, named_schedule

STOP = 3
SETTINGS: dict[str, dict[str, Any]] = {
    "muon": {
        "optimizer": {"class_path": "dsvl_tune.training.muon.MuonAdamW"},
        "lr_scheduler": {
            "class_path": "dsvl_tune.training.schedules.named_schedule",
            "init_args": {"name": "warmup_stable_decay", "options": {"num_decay_steps": 4}},
        },
    },
    "8bit": {
        "optimizer": {
            "class_path": "bitsandbytes.optim.AdamW8bit",
            "init_args": {"min_8bit_size": 16},
        },
        "lr_scheduler": {
            "class_path": "torch.optim.lr_scheduler.LinearLR",
            "init_args": {"total_iters": 9},
        },
    },
    "adafactor": {"optimizer": {"class_path": "torch.optim.Adafactor"}},
}


class StopAt(L.Callback):
    """Sends SIGTERM in one step."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == STOP:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_resumed_run_is_that_of_a_run_that_was_never_stopped(
    name: str, hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**SETTINGS[name], "trainer__log_every_n_steps": 1, "trainer__max_steps": 6}
    recipe = write_recipe(tmp_path, hybrid_checkpoint, **changes)
    assert fit(recipe, "--run_name", "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(
            "dsvl_tune.training.run.trainer.run_callbacks",
            lambda *arguments, **kept: [StopAt(), *run_callbacks(*arguments, **kept)],
        )
        assert fit(recipe, "--run_name", "stopped") == 75
    assert fit(recipe, "--run_name", "stopped") == 0
    whole = tmp_path / "runs" / "whole"
    assert_equal_runs(whole, tmp_path / "runs" / "stopped")
    (state,) = last(whole)["optimizer_states"]
    parts = {group["name"].partition("/")[0] for group in state["param_groups"]}
    assert parts == {"aligner", "language_model"}
    if name != "muon":
        return
    with pytest.raises(UserError, match="trained with MuonAdamW, this recipe has AdamW"):
        fit(recipe, "--run_name", "stopped", "--optimizer", "null", "--ckpt_path", "last")


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    torch.manual_seed(1)
    tensors = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for tensor in tensors:
        tensor.grad = torch.randn_like(tensor)
    return tensors


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    shapes = (8, 4), (4, 8, 2, 2), (4,), (6, 4)
    parts = "decoder", "decoder", "decoder/vectors", "lm_head"
    own, reference = parameters(*shapes), parameters(*shapes)
    groups = [
        {"params": [(f"p{number}", tensor)], "lr": 0.1, "weight_decay": 0.3, "name": part}
        for number, (tensor, part) in enumerate(zip(own, parts, strict=True))
    ]
    groups[0]["params"] += groups.pop(1)["params"]  # a matrix and a convolution in one group
    optimizers = [
        MuonAdamW(groups),
        Muon(reference[:1], lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
        AdamW(reference[1:], lr=0.1, weight_decay=0.3, betas=(0.9, 0.95)),
    ]
    for _ in range(3):
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(own, reference, strict=True))


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found += schedule.get_last_lr()
        schedule.optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("constant", {}, partial(transformers.get_constant_schedule)),
        (
            "warmup_stable_decay",
            {"num_decay_steps": 4, "min_lr_ratio": 0.1},
            partial(
                transformers.get_wsd_schedule,
                num_warmup_steps=3,
                num_training_steps=12,
                num_decay_steps=4,
                min_lr_ratio=0.1,
            ),
        ),
        (
            "cosine_with_min_lr",
            {"min_lr_rate": 0.2},
            partial(
                transformers.get_cosine_with_min_lr_schedule_with_warmup,
                num_warmup_steps=3,
                num_training_steps=12,
                min_lr_rate=0.2,
            ),
        ),
    ],
)
def test_schedules_by_name_are_those_of_transformers(
    name: str, options: dict[str, Any], expected: Any
) -> None:
    factory = partial(named_schedule, name=name, options=options)
    optimizer = partial(SGD, parameters((1,)), lr=0.5)
    found = make_schedule(optimizer(), factory, warmup_steps=3, total_steps=12)
    assert rates(found, 12) == rates(expected(optimizer()), 12)


def test_what_a_schedule_needs_is_named() -> None:
    optimizer = SGD(parameters((1,)))
    with pytest.raises(UserError, match=r"^lr_scheduler: warmup_stable_decay: .*num_decay_steps"):
        make_schedule(
            optimizer,
            partial(named_schedule, name="warmup_stable_decay"),
            warmup_steps=1,
            total_steps=9,
        )
    with pytest.raises(UserError, match="ReduceLROnPlateau follows a logged value"):
        make_schedule(optimizer, ReduceLROnPlateau, warmup_steps=1, total_steps=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizer", "torch.optim.SGD", "--optimizer.lr", "1"], "set model.lr"),
        (["--optimizer", "torch.optim.Sgd"], "torch.optim.Sgd"),
        (["--lr_scheduler", "torch.optim.SGD"], "torch.optim.SGD"),
    ],
)
def test_other_classes_and_rates_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe.parse(recipe_parser(), ["--config", "charts_lora", *options])


def test_an_optimizer_that_does_not_take_the_parameters(
    hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, hybrid_checkpoint, optimizer={"class_path": "torch.optim.Muon"})
    with pytest.raises(UserError, match=r"^optimizer: ValueError: Muon only supports 2D"):
        fit(recipe)
