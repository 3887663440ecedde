"""A metric from a user's own module, named by class path, in everything that a run measures."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from command_line import refused
from PIL import Image

from dsvl_tune.cli.main import main

BLEU = {
    "class_path": "dsvl_tune.evaluation.metrics.torchmetrics_text.TorchmetricsText",
    "init_args": {"metric": "torchmetrics.text.SacreBLEUScore"},
}
METRIC = '''
from dsvl_tune.evaluation.metrics import Metric


class Brevity(Metric):
    """Characters of an answer beyond a limit; fewer are better."""

    name = "brevity"
    higher_is_better = False

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit

    def score(self, prediction, references):
        return float(max(0, len(prediction) - self.limit))


class CorpusLength(Metric):
    """Characters of all answers together: no mean, and no sum over question types."""

    name = "corpus_length"

    def score(self, prediction, references):
        return float(len(prediction))

    def aggregate(self, predictions, references):
        return float(len("".join(predictions)))
'''


@pytest.fixture
def recipe(tmp_path: Path, hybrid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of four metrics, two of them in a module of the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "user_metrics.py").write_text(METRIC, encoding="utf-8")
    brevity = {"class_path": "user_metrics.Brevity", "init_args": {"limit": 1}}
    settings = {
        "train_charts": 8,
        "validation_charts": 2,
        "test_charts": 2,
        "metrics": [brevity, "user_metrics.CorpusLength", "relaxed_accuracy", BLEU],
    }
    content = {
        "model": {"checkpoint": str(hybrid_checkpoint), "max_new_tokens": 8},
        "data": {
            "class_path": "dsvl_tune.datamodules.ChartsDataModule",
            "init_args": settings,
        },
        "trainer": {"max_steps": 2, "val_check_interval": 1},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Exit code of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", *arguments])
    try:
        main()
    except SystemExit as ended:
        return ended.code
    return 0


def logged(folder: Path, name: str) -> list[float]:
    """The values that a run logged under a name, in order."""
    (path,) = folder.glob("metrics/*/metrics.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_a_run_measures_it_everywhere(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "fit", "--config", str(recipe)) == 0
    folder = Path("runs/recipe")
    lines = (folder / "predictions" / "test_after.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    by_type: dict[str, list[str]] = {}
    for answer in answers:
        text = answer["answer"]
        assert answer["scores"]["brevity"] == max(0, len(text) - 1)
        assert answer["scores"]["corpus_length"] == len(text)
        by_type.setdefault(answer["question_type"], []).append(text)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for question_type, texts in by_type.items():
        excess = [max(0, len(text) - 1) for text in texts]
        assert summary["after"][f"brevity/{question_type}"] == pytest.approx(
            sum(excess) / len(excess)
        )
        length = summary["after"][f"corpus_length/{question_type}"]
        assert length == len("".join(texts))
    for column in ("before", "after", "majority_baseline"):
        assert {"brevity", "corpus_length", "relaxed_accuracy", "SacreBLEUScore"} <= set(
            summary[column]
        )

    # The first metric picks the best checkpoint, in its own direction.
    figures = logged(folder, "val/brevity")
    assert len(figures) == 2 and len(logged(folder, "val/corpus_length")) == 2
    best_step = 1 + figures.index(min(figures))
    assert summary["best_checkpoint"] == f"checkpoints/best-step={best_step}.ckpt"

    # config.yaml of the run repeats the metrics and their settings.
    assert run(monkeypatch, "test", "--config", str(folder / "config.yaml")) == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--monitor", "val/brevty"], ["val/brevty", "val/loss", "val/brevity", "corpus_length"]),
        (["--monitor", "brevity"], ["val/brevity"]),
        (["--monitor", "val/brevity/listing"], ["val/brevity/count"]),
        (["--data.metrics", "[bertscore]"], ["bertscore", "relaxed_accuracy", "class path"]),
        (["--data.metrics", "[user_metrics.Brevty]"], ["user_metrics.Brevty", "class path"]),
    ],
)
def test_wrong_names(
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    named: list[str],
) -> None:
    refused(["fit", "--config", str(recipe), *arguments], capsys, monkeypatch, named)


def test_a_name_that_only_training_could_log_is_refused_at_the_first_validation(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, "fit", "--config", str(recipe), "--monitor", "train/los") == 2
    assert "train/loss" in capsys.readouterr().err


def test_the_documented_recipe_for_invoices(
    tmp_path: Path, hybrid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of the page as they are, on rows as the page asks for."""
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    section = page[page.index("## Field F1 of invoices, in five lines") :]
    (lines,) = re.findall(r"```yaml\n(.*?)```", section[: section.index("\n## ")], re.DOTALL)
    assert len(lines.splitlines()) == 5
    Path("mine.yaml").write_text(lines, encoding="utf-8")
    with open("invoices.jsonl", "w", encoding="utf-8") as file:
        for number in range(20):
            Image.new("RGB", (40, 60), (10 * number, 0, 0)).save(f"{number}.png")
            asked = {"role": "user", "content": "<image>What are date and total?"}
            fields = {"date": f"2024-03-{number + 1:02}", "total": number * 1.5}
            answer = {"role": "assistant", "content": json.dumps(fields)}
            file.write(
                json.dumps({"messages": [asked, answer], "images": [f"{number}.png"]}) + "\n"
            )
    options = {
        "model.checkpoint": hybrid_checkpoint,
        "model.max_new_tokens": 2,
        "trainer.max_steps": 1,
        "trainer.val_check_interval": 1,
    }
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "fit", "--config", "mine.yaml", *given])
    main()
    summary = json.loads(Path("runs/mine/summary.json").read_text(encoding="utf-8"))
    figures = {"json_fields", "json_fields.date", "json_fields.total"}
    assert figures <= set(summary["before"]) and figures <= set(summary["after"])
    curves = Path("runs/mine/metrics/version_0/metrics.csv").read_text(encoding="utf-8")
    assert "val/json_fields.total" in curves.splitlines()[0]
    assert summary["best_checkpoint"] == "checkpoints/best-step=1.ckpt"
