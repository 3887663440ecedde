"""Runs `dsvl-tune` commands in a process of their own, and commands that must be refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dsvl_tune.cli.main import main


def run(
    *arguments: str, folder: Path = Path(__file__).parents[2]
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "dsvl_tune", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """Return the message of a command that must exit with code 2 and write nothing."""
    before = sorted(Path.cwd().rglob("*"))
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert "Traceback" not in error
    assert sorted(Path.cwd().rglob("*")) == before
    return error
