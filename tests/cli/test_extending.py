"""The files of the page "Extending" run together, and each of them has its effect."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from command_line import run_console_script

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
FILES = dict(re.findall(r'^```\w+ title="([\w.]+)"\n(.*?)^```$', PAGE.read_text(), re.M | re.S))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the page's command in a folder with the page's files."""
    folder = tmp_path_factory.mktemp("extending")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    (command,) = re.findall(r"^dsvl-tune (fit .*)$", PAGE.read_text(), re.M)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = run_console_script(*command.split(), folder=folder, env=environment)
    assert done.returncode == 0, done.stderr
    (folder / "output").write_text(done.stdout, encoding="utf-8")
    return folder


def settings(folder: Path) -> dict:
    """The `config.yaml` of the run."""
    return yaml.safe_load((folder / "runs" / "mine" / "config.yaml").read_text())


EFFECTS = {
    "my_metric.py": lambda folder: "starts_with " in (folder / "output").read_text(),
    "my_data.py": lambda folder: (
        "test: red" in (folder / "runs/mine/predictions/test_after.jsonl").read_text()
    ),
    "my_objective.py": lambda folder: (
        settings(folder)["model"]["objective"] == "my_objective.focused_loss"
    ),
    "my_optimizer.py": lambda folder: (
        torch.load(folder / "runs/mine/checkpoints/last.ckpt", weights_only=True)["optimizer"]
        == "Momentum"
    ),
    "my_callback.py": lambda folder: "\n2 steps\n" in (folder / "output").read_text(),
    "my_logger.py": lambda folder: (
        "val/starts_with" in (folder / "values.txt").read_text()
        and "None model.noise 0.001\n" in (folder / "values.txt").read_text()
    ),
    "my_model.py": lambda folder: settings(folder)["model"]["noise"] == 0.001,
    "mine.yaml": lambda folder: settings(folder)["model_class"] == "my_model.NoisyModule",
}


def test_every_file_of_the_page_is_looked_at() -> None:
    assert FILES.keys() == EFFECTS.keys()


@pytest.mark.parametrize("name", EFFECTS)
def test_it_has_its_effect(name: str, run_folder: Path) -> None:
    assert EFFECTS[name](run_folder)


def test_the_schedule_halves_the_rate(run_folder: Path) -> None:
    lines = (run_folder / "values.txt").read_text().splitlines()
    rates = [float(line.split()[2]) for line in lines if " lr/language_model " in line]
    assert rates == pytest.approx([0.05, 0.05, 0.025, 0.025])
