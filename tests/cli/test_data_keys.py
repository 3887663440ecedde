"""Data modules on the command line: bare names, help, and errors about wrong keys.

Lookups run in a process of their own: other tests import classes that jsonargparse would find.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import refused, run

import dsvl_tune.datamodules


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory."""
    monkeypatch.chdir(tmp_path)


def test_help_names_every_data_module() -> None:
    text = " ".join(run("fit", "--help").stdout.split())
    missing = [name for name in dsvl_tune.datamodules.__all__ if f"{name} (" not in text]
    assert missing == ["ConversationDataModule"]  # abstract: the base of one's own


def test_the_keys_of_a_data_module_are_found_by_its_bare_name() -> None:
    done = run("fit", "--data.help", "ChartsDataModule")
    assert done.returncode == 0, done.stderr
    assert "--data.train_charts" in done.stdout


@pytest.mark.parametrize("name", ["InstructDataModule", "dsvl_tune.datamodules.InstructDataModule"])
def test_a_data_module_is_found_by_its_bare_name(name: str, tmp_path: Path) -> None:
    """Its file does not exist, so the command ends with the data module's own message."""
    rows = str(tmp_path / "none.jsonl")
    done = run(
        "fit",
        "--config",
        "charts_lora",
        "--data",
        name,
        "--data.train",
        rows,
        "--run_dir",
        str(tmp_path),
    )
    assert done.returncode == 2
    assert f"{rows}: cannot be read" in done.stderr


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        (
            "train",
            "InstructDataModule has it: give --data dsvl_tune.datamodules.InstructDataModule "
            "before its keys.",
        ),
        ("train_chart", "Did you mean 'train_charts'?"),
        ("color", "--data.help ChartsDataModule shows its keys."),
    ],
)
def test_a_key_that_the_data_module_does_not_have(
    key: str, hint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused(["fit", "--config", "charts_lora", f"--data.{key}", "x"], capsys, monkeypatch)
    assert error.endswith(f" ChartsDataModule has no key {key!r}. {hint}\n")


@pytest.mark.parametrize(
    "arguments", [["fit"], ["validate"], ["check-data"], ["fit", "--model.lr", "1e-4"]]
)
def test_a_missing_data_module_is_an_error_with_examples(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused(arguments, capsys, monkeypatch)
    assert "--config charts_lora" in error
    assert "--data CLASS" in error
    assert "fit.data" not in error


@pytest.mark.parametrize("option", ["--data", "--data.help"])
def test_an_unknown_data_module(
    option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused(["fit", option, "InstructDataModul"], capsys, monkeypatch)
    message = "unknown data module 'InstructDataModul'. Did you mean 'InstructDataModule'?"
    assert error == f"dsvl-tune: error: {message}\n"
