"""`dsvl-tune` as a user gives it: in a process of its own, and what a wrong command must be told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dsvl_tune.cli.main import main


def run(
    *arguments: str, folder: Path = Path(__file__).parents[2]
) -> subprocess.CompletedProcess[str]:
    """The command with these arguments, in a process of its own."""
    command = [sys.executable, "-m", "dsvl_tune", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The message of a command that must end with exit code 2 and write nothing."""
    before = sorted(Path.cwd().rglob("*"))
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert "Traceback" not in error
    assert sorted(Path.cwd().rglob("*")) == before
    return error
