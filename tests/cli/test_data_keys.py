"""Data modules on the command line: by bare name, in the help, and what a missing one or a wrong key is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dsvl_tune.datamodules
from dsvl_tune.cli import main


def fit(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`dsvl-tune fit` in a process of its own: other tests import the classes that jsonargparse looks among."""
    command = [sys.executable, "-m", "dsvl_tune", "fit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)


def test_help_names_every_data_module() -> None:
    text = fit("--help").stdout
    assert [name for name in dsvl_tune.datamodules.__all__ if f"dsvl_tune.datamodules.{name}" not in text] == []


def test_the_keys_of_a_data_module_are_found_by_its_bare_name() -> None:
    done = fit("--data.help", "ChartsDataModule")
    assert done.returncode == 0, done.stderr
    assert "--data.train_charts" in done.stdout


@pytest.mark.parametrize("name", ["InstructDataModule", "dsvl_tune.datamodules.InstructDataModule"])
def test_a_data_module_is_taken_by_its_bare_name(name: str, tmp_path: Path) -> None:
    """The rows are none, so the command ends before it writes anything, and by the data module's own message."""
    rows = str(tmp_path / "none.jsonl")
    done = fit("--config", "charts_lora", "--data", name, "--data.train", rows, "--run_dir", str(tmp_path))
    assert done.returncode == 2
    assert f"{rows}: cannot be read" in done.stderr


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("train", "InstructDataModule has: give --data dsvl_tune.datamodules.InstructDataModule before its keys."),
        ("train_chart", "Did you mean 'train_charts'?"),
        ("colour", "--data.help ChartsDataModule shows its keys."),
    ],
)
def test_a_key_that_the_data_module_has_not(
    key: str, hint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "fit", "--config", "charts_lora", f"--data.{key}", "x"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f" ChartsDataModule has no key {key!r}. {hint}\n")


@pytest.mark.parametrize("arguments", [["fit"], ["validate"], ["check-data"], ["fit", "--model.lr", "1e-4"]])
def test_no_data_module_is_told_what_gives_one(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "--config charts_lora" in error
    assert "--data CLASS" in error
    assert "fit.data" not in error


@pytest.mark.parametrize("option", ["--data", "--data.help"])
def test_a_data_module_that_there_is_not(
    option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "fit", option, "InstructDataModul"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = "there is no data module 'InstructDataModul'. Did you mean 'InstructDataModule'?"
    assert capsys.readouterr().err == f"dsvl-tune: error: {told}\n"
