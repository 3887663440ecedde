"""The command line from outside: output, exit codes, and help without heavy imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import refused, run

import dsvl_tune
from dsvl_tune.cli.main import COMMANDS

HEAVY = {
    "torch",
    "lightning",
    "transformers",
    "peft",
    "datasets",
    "torchmetrics",
    "jsonargparse",
    "numpy",
    "PIL",
}


def test_help_names_every_command() -> None:
    help_text = run("--help")
    assert help_text.returncode == 0
    assert all(f"  {name} " in help_text.stdout for name in COMMANDS)


def test_no_argument_is_help() -> None:
    assert run().stdout == run("--help").stdout


def imported_by(*arguments: str) -> set[str]:
    """Run a command in a process of its own, and return the modules that it imported."""
    script = f"""
import json, sys
sys.argv = ["dsvl-tune", *{arguments!r}]
from dsvl_tune.cli.main import main
try:
    main()
except SystemExit:
    pass
finally:
    print()
    print(json.dumps(sorted(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    modules = set(json.loads(result.stdout.splitlines()[-1]))
    assert "dsvl_tune.cli.main" in modules
    return modules


@pytest.mark.parametrize("argument", ["--help", "--version", "ft"])
def test_nothing_heavy_is_imported(argument: str) -> None:
    assert not imported_by(argument) & HEAVY


@pytest.mark.parametrize("command", ["merge", "convert", "chat", "init"])
def test_help_of_commands_without_a_recipe_imports_no_framework(command: str) -> None:
    assert not imported_by(command, "--help") & (HEAVY - {"jsonargparse"})


def test_version() -> None:
    assert run("--version").stdout == f"dsvl-tune {dsvl_tune.__version__}\n"


@pytest.mark.parametrize(
    ("typed", "meant"), [("ft", "fit"), ("validte", "validate"), ("mrege", "merge")]
)
def test_unknown_command_is_one_message_with_the_nearest_name(typed: str, meant: str) -> None:
    result = run(typed)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert f"unknown command {typed!r}" in result.stderr
    assert f"Did you mean {meant!r}?" in result.stderr


def test_debug_shows_the_traceback() -> None:
    result = run("ft", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["merge", "runs/none", "--outt", "y"],
            "unrecognized arguments: --outt y. Did you mean --out?",
        ),
        (
            ["convert", "a", "b", "--to", "original", "--sah256", "x"],
            "--sah256 x. Did you mean --sha256?",
        ),
        (["chat", "--modle", "merged"], "--modle merged. Did you mean --model?"),
        (["merge"], "required: run. See dsvl-tune merge --help."),
        (
            ["merge", "runs/none", "--rows", "few"],
            "--rows: expected a whole number, found few. See dsvl-tune merge --help.",
        ),
        (["init"], "See dsvl-tune init --help."),
    ],
)
def test_a_wrong_option_of_a_command_is_one_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(arguments, capsys, monkeypatch)
    assert len(error.splitlines()) == 1
    assert error.startswith("dsvl-tune: error: ")
    assert error.endswith(f"{message}\n")
