"""The script and the notebook on the Python API run and the model learns."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_notebook_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = json.loads((EXAMPLES / "python_api.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    run = names["run"]
    assert run.after["relaxed_accuracy"] > run.before["relaxed_accuracy"] + 0.2
    assert (tmp_path / "runs" / "notebook" / "merged" / "config.json").is_file()
    assert "accuracy: " in capsys.readouterr().out


def test_the_script_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["python_api.py", "--steps", "2"])
    runpy.run_path(str(EXAMPLES / "python_api.py"), run_name="__main__")
    assert "accuracy on held-out charts: 0.0% -> " in capsys.readouterr().out
    assert (tmp_path / "runs" / "python_api" / "merged" / "model.safetensors").is_file()
