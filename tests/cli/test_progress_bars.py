"""Progress bars on a terminal end before a message; elsewhere there are lines instead."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from runs import fit, write_recipe
from tqdm import tqdm

from dsvl_tune.cli import main as command_line
from dsvl_tune.core.errors import UserError


def test_open_bars_end_before_the_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: list[str]) -> None:
        bar = tqdm(total=10, desc="training", file=sys.stderr)
        bar.update(3)
        raise UserError("rows.jsonl:3: bad")

    command = type("Command", (), {"main": staticmethod(fail)})
    monkeypatch.setattr(command_line, "import_command", lambda name: command)
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "fit"])
    with pytest.raises(SystemExit):
        command_line.main()
    assert capsys.readouterr().err.endswith("\ndsvl-tune: error: rows.jsonl:3: bad\n")


def test_without_a_terminal_there_are_lines_and_no_bars(
    hybrid_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, hybrid_checkpoint, trainer__enable_progress_bar=True)
    assert fit(recipe, "--trainer.max_steps", "2", "--trainer.log_every_n_steps", "1") == 0
    output = capfd.readouterr().out
    assert "\r" not in output and "it/s" not in output
    lines = [line for line in output.splitlines() if line.startswith("step 2: ")]
    assert len(lines) == 1
    for name in ("train/loss ", "val/loss ", "val/relaxed_accuracy ", "tokens/s "):
        assert name in lines[0]
    assert output.splitlines()[-1].startswith("next: dsvl-tune merge ")
