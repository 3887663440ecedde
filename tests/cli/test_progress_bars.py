"""The message of an error begins on a line of its own, whatever bar is open."""

from __future__ import annotations

import sys

import pytest
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
