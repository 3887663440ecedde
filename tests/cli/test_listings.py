"""`recipes`, `examples`, `runs` and `env`: what they print, what they refuse."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

import pytest
import torch
from command_line import refused
from PIL import Image

from dsvl_tune.cli.main import main

ROOT = Path(__file__).parents[2]


def printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> str:
    """Return what a command prints."""
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", *arguments])
    main()
    return capsys.readouterr().out


def test_every_recipe_is_listed_with_its_purpose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(monkeypatch, capsys, "recipes").splitlines()[2:]
    files = {path.stem for path in (ROOT / "recipes").rglob("*.yaml")}
    assert {line.split()[0] for line in lines} == files
    assert all(len(line.split()) > 3 and not line.endswith((",", ".")) for line in lines)


def test_a_copied_recipe_is_the_shipped_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = (ROOT / "recipes" / "charts_lora.yaml").read_text(encoding="utf-8")
    assert printed(monkeypatch, capsys, "recipes", "charts_lora") == shipped
    printed(monkeypatch, capsys, "recipes", "charts_lora", "--out", "mine.yaml")
    assert Path("mine.yaml").read_text(encoding="utf-8") == shipped
    Path("mine.yaml").write_text("mine")
    again = ["recipes", "charts_lora", "--out", "mine.yaml"]
    assert "mine.yaml: exists" in refused(again, capsys, monkeypatch)
    assert Path("mine.yaml").read_text() == "mine"
    missing = ["recipes", "chart_lora"]
    assert "Did you mean 'charts_lora'?" in refused(missing, capsys, monkeypatch)


def test_examples_are_listed_and_written_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = printed(monkeypatch, capsys, "examples").splitlines()[2:]
    assert [line.split()[:2] for line in lines] == [
        ["chart", "chart.png"],
        ["invoices", "invoices"],
    ]
    assert printed(monkeypatch, capsys, "examples", "--name", "chart") == "written: chart.png\n"
    shipped = Image.open(ROOT / "examples" / "chart.png")
    assert Image.open("chart.png").tobytes() == shipped.tobytes()
    again = ["examples", "--name", "chart"]
    assert "chart.png: exists" in refused(again, capsys, monkeypatch)
    nowhere = ["examples", "--name", "invoices", "--out", "no/where"]
    assert "no such folder" in refused(nowhere, capsys, monkeypatch)
    assert "Did you mean 'chart'?" in refused(["examples", "--name", "charts"], capsys, monkeypatch)


def test_runs_are_listed_with_their_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no such folder" in refused(["runs"], capsys, monkeypatch)
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("model: {checkpoint: embedded}\n")
    summary = {"steps": 1200, "before": {"anls": 0.125}, "after": {"anls": 0.5}}
    (tmp_path / "runs" / "one" / "summary.json").write_text(json.dumps(summary))
    rows = {
        line.split()[0]: line.split()
        for line in printed(monkeypatch, capsys, "runs").splitlines()[2:]
    }
    assert rows["one"][1:9] == ["embedded", "finished", "1,200", "anls", "12.5", "%", "50.0", "%"]
    assert rows["two"][1:4] == ["embedded", "stopped", "0"]


def test_a_damaged_a_running_and_a_swept_run_do_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = ("list", "cut", "half", "running", "good", "sweep/trial_00", "sweep/trial_01")
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("model: {checkpoint: /data/base}\n")
    (tmp_path / "list" / "config.yaml").write_text("- a")
    (tmp_path / "cut" / "summary.json").write_text('{"steps": 1')
    (tmp_path / "half" / "summary.json").write_text('{"before": 3}')
    holder = f"process {os.getpid()} on {platform.node()} (ab)\n"
    (tmp_path / "running" / ".lock").write_text(holder)
    (tmp_path / "sweep" / "sweep.yaml").touch()
    for name in ("good", "sweep/trial_01"):
        (tmp_path / name / "summary.json").write_text('{"steps": 7}')
    text = printed(monkeypatch, capsys, "runs", str(tmp_path))
    states = {line.split()[0]: line.split()[1:4] for line in text.splitlines()[2:-2]}
    assert states == {
        "list": ["-", "damaged", "-"],
        "cut": ["-", "damaged", "-"],
        "half": ["-", "damaged", "-"],
        "running": ["base", "running", "0"],
        "good": ["base", "finished", "7"],
    }
    assert text.endswith(f"sweep {tmp_path / 'sweep'}: 2 trials, 1 of them finished\n")
    trials = printed(monkeypatch, capsys, "runs", str(tmp_path / "sweep"))
    assert "trial_00" in trials and "trial_01" in trials


def test_env_names_versions_and_nothing_private(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    text = printed(monkeypatch, capsys, "env")
    assert torch.__version__ in text
    assert platform.python_version() in text
    for private in ("hf_secret", platform.node(), str(Path.home()), str(ROOT)):
        assert private not in text
