"""What a kill left next to the last checkpoint, which does not know of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_equal_runs, fit, last, write_recipe

from dsvl_tune.training.callbacks.last_checkpoint import LastCheckpoint
from dsvl_tune.training.checkpoints.files import NEXT
from dsvl_tune.training.checkpoints.sharded_io import RunCheckpointIO


def test_a_best_checkpoint_that_was_replaced_just_before_a_kill(
    hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss falls, so each validation removes the best checkpoint of the one before."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert fit(write_recipe(whole, hybrid_checkpoint, monitor="val/loss")) == 0
    recipe = write_recipe(killed, hybrid_checkpoint, monitor="val/loss")
    run = killed / "runs" / "run"

    def die(*_: Any) -> None:
        if (run / "checkpoints" / "last.ckpt").exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        plain = LastCheckpoint.on_validation_end
        patch.setattr(LastCheckpoint, "on_validation_end", lambda *event: (die(), plain(*event)))
        with pytest.raises(KeyboardInterrupt):
            fit(recipe)
    (best,) = (path.name for path in (run / "checkpoints").glob("best-*"))
    known = json.dumps(last(run)["callbacks"], default=str)
    assert best not in known and "best-" in known
    assert fit(recipe) == 0
    assert_equal_runs(whole / "runs" / "run", run)


def test_a_run_that_was_moved_finds_its_best_checkpoint(
    whole_run: Path, hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "run"
    shutil.copytree(whole_run, run)
    shutil.rmtree(run / "adapter")
    (run / "summary.json").unlink()  # as if it was killed before its result was written
    assert fit(write_recipe(tmp_path, hybrid_checkpoint), "--ckpt_path", "last") == 0
    assert_equal_runs(whole_run, run)


def test_a_folder_of_shards_left_where_a_file_is_to_be_written(tmp_path: Path) -> None:
    """As a killed run of several processes leaves it, which one process resumes."""
    left = tmp_path / NEXT
    left.mkdir(parents=True)
    (left / "rest.pt").write_bytes(b"half")
    RunCheckpointIO(optimizer=True).save_checkpoint({"global_step": 3}, left)
    assert torch.load(left, weights_only=True) == {"global_step": 3}
