"""Runs `dsvl-tune` commands in a process of their own, and commands that must be refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dsvl_tune.cli.main import main


def run(
    *arguments: str, folder: Path = Path(__file__).parents[2]
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "dsvl_tune", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def run_console_script(
    *arguments: str, folder: Path, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command as the installed console script does.

    The script's own folder is first on the search path, not the working folder.

    Args:
        *arguments: Of the command line.
        folder: Working folder.
        **options: Further arguments of `subprocess.run`, e.g. `env`.
    """
    root = str(Path(__file__).parents[2])
    start = f"import sys; sys.path[0] = {root!r}; from dsvl_tune.cli.main import main; main()"
    command = [sys.executable, "-c", start, *arguments]
    return subprocess.run(
        command, **{"capture_output": True, "text": True, "check": False, "cwd": folder, **options}
    )


def refused(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    named: Sequence[str] = (),
) -> str:
    """Return the message of a command that must exit with code 2, name these, and write nothing."""
    before = sorted(Path.cwd().rglob("*"))
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert "Traceback" not in error
    assert sorted(Path.cwd().rglob("*")) == before
    assert all(text in error for text in named), error
    return error
