"""How many of the project's own functions lie between the shell and the loss."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml

import dsvl_tune
import dsvl_tune.datamodules
from dsvl_tune.cli.main import main
from dsvl_tune.training.objectives import chunked_cross_entropy

OWN = tuple(
    str(Path(str(package.__file__)).parent) for package in (dsvl_tune, dsvl_tune.datamodules)
)
RECIPE = {
    "data": {
        "class_path": "dsvl_tune.datamodules.ChartsDataModule",
        "init_args": {"train_charts": 2, "validation_charts": 1, "test_charts": 1, "batch_size": 1},
    },
    "trainer": {"max_steps": 1, "enable_progress_bar": False},
    "monitor": "last",
}


def test_at_most_eight_own_frames_from_the_shell_to_the_loss(
    hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {**RECIPE, "model": {"checkpoint": str(hybrid_checkpoint), "max_new_tokens": 2}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "fit", "--config", "tiny.yaml"])
    stacks: list[list[str]] = []

    def record(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or frame.f_code.co_filename != chunked_cross_entropy.__file__:
            return
        own = []
        caller: FrameType | None = frame
        while caller is not None:
            if caller.f_code.co_filename.startswith(OWN):
                own.append(caller.f_code.co_name)
            caller = caller.f_back
        if "training_step" in own:
            stacks.append(own[::-1])

    sys.setprofile(record)
    try:
        main()
    finally:
        sys.setprofile(None)
    assert stacks[0][0] == "main"
    assert len(stacks[0]) <= 8, " -> ".join(stacks[0])
