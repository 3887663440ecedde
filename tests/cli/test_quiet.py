"""Commands print no warnings of libraries that the user cannot act on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from command_line import run

ROWS = {
    "train_charts": 4,
    "validation_charts": 2,
    "test_charts": 2,
    "retention_scenes": 2,
    "batch_size": 2,
}


@pytest.mark.parametrize(
    "command",
    [
        ["check-data"],
        ["preview", "--rows", "2"],
        ["cache-features", "--model.feature_cache", "features"],
        # Epochs of two steps are shorter than log_every_n_steps.
        ["fit", "--trainer.max_steps", "4"],
    ],
    ids=lambda command: command[0],
)
def test_commands_on_a_recipe(command: list[str], hybrid_checkpoint: Path, tmp_path: Path) -> None:
    recipe = {
        "model": {"checkpoint": str(hybrid_checkpoint), "parts": {"aligner": {"mode": "full"}}},
        "data": {"class_path": "dsvl_tune.datamodules.ChartsDataModule", "init_args": ROWS},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = run(*command, "--config", "small.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    # A warning begins with the file that raises it.
    assert "site-packages" not in done.stderr, done.stderr
