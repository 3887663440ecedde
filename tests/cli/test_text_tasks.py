"""lm-eval on the model in memory, with a task of a few lines; needs lm-eval."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from command_line import refused

from dsvl_tune.cli.main import main
from dsvl_tune.evaluation.chat_model import load_model

ROWS = [
    {"question": "The capital of France is", "options": ["Paris", "Rome"], "answer": 0},
    {"question": "The color of grass is", "options": ["red", "green", "blue"], "answer": 1},
    {"question": "Two and one are", "options": ["three", "two"], "answer": 0},
    {"question": "How many bars are there?", "options": ["2", "four"], "answer": 0},
]


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the task "few"; the working folder is above it."""
    pytest.importorskip("lm_eval")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "tasks"
    folder.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "few.jsonl").write_text(lines, encoding="utf-8")
    task = {
        "task": "few",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "few.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{options}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "few.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return folder


def most_likely(question: str, options: list[str]) -> int:
    """The option whose tokens are the likeliest after the question, one forward pass each."""
    model = load_model()
    tokenizer = model.processor.tokenizer
    prompt = tokenizer(question).input_ids
    sums = []
    for option in options:
        ids = tokenizer(f"{question} {option}").input_ids
        assert ids[: len(prompt)] == prompt
        with torch.no_grad():
            logits = model.network(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(len(prompt), len(ids))
        sums.append(sum(float(logits[place - 1, ids[place]]) for place in places))
    return max(range(len(options)), key=sums.__getitem__)


def test_a_task_of_a_few_lines(
    tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--text_tasks", "few", "--task_folder", str(tasks), "--out", "results"]
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "benchmark", *options])
    main()
    report = json.loads(Path("results/text_tasks.json").read_text(encoding="utf-8"))
    right = [most_likely(row["question"], row["options"]) == row["answer"] for row in ROWS]  # type: ignore[arg-type]
    assert report["lm_eval"]["tasks"]["few"]["acc,none"] == pytest.approx(sum(right) / len(ROWS))
    assert report["model"] == "embedded"
    added = ["--model", "embedded", "--batch_size", "16"]
    assert report["command"] == [*sys.argv[:6], *added, "--out", "results"]
    assert "few" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--text_tasks", "fwe", "--task_folder", "tasks"], ["unknown text task 'fwe'", "'few'"]),
        (["--text_tasks", "few", "--task_folder", "nowhere"], ["--task_folder nowhere"]),
        (["--text_tasks", "few", "--task_folder", "tasks", "--shard", "1/2"], ["--shard"]),
        ([], ["nothing to run"]),
        (["pope"], ["--data"]),
    ],
)
def test_bad_options(
    tasks: Path,
    options: list[str],
    named: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = refused(["benchmark", *options], capsys, monkeypatch)
    assert all(text in error for text in named), error
    assert not Path("benchmark_results").exists()


def test_a_task_whose_data_are_missing(
    tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tasks / "few.jsonl").unlink()
    command = ["benchmark", "--text_tasks", "few", "--task_folder", "tasks"]
    error = refused(command, capsys, monkeypatch)
    assert "--text_tasks few: lm-eval could not load them" in error and "few.jsonl" in error
