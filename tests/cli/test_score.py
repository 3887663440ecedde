"""`dsvl-tune score`: stored answers, scored again without a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import refused, run

from dsvl_tune.cli.main import main

GOLDEN = Path(__file__).parents[1] / "golden" / "benchmarks"
LINES = [
    {"id": 7, "answer": "2019", "references": ["2026"], "question_type": "year"},
    {"id": 8, "answer": "Grüße", "reference": "grüsse", "question_type": "word"},
    {"id": 9, "prediction": "None", "references": ["none", "NA"], "question_type": "word"},
]


def write(path: Path, lines: list[Any]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("answers.jsonl")
    write(path, LINES)
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "score", *arguments])
    main()


def test_every_line_gets_its_scores(
    answers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--metric", "anls", "--metric", "relaxed_accuracy", "--out", "scored.jsonl"]
    call(monkeypatch, str(answers), *options)
    scored = read(Path("scored.jsonl"))
    assert [{k: v for k, v in line.items() if k != "scores"} for line in scored] == LINES
    assert scored[0]["scores"] == {"anls": 0.5, "relaxed_accuracy": 1.0}
    assert scored[1]["scores"] == {"anls": pytest.approx(2 / 3), "relaxed_accuracy": 0.0}
    assert scored[2]["scores"] == {"anls": 1.0, "relaxed_accuracy": 1.0}
    printed = capsys.readouterr().out
    assert "relaxed_accuracy/year  100.00 %" in printed
    assert "relaxed_accuracy        75.00 %" in printed  # the mean over the two types
    assert "only 3 scored questions" in printed
    # Once more: the same answers may be scored by other metrics, and keep what they had.
    call(monkeypatch, "scored.jsonl", "--metric", "cer", "--out", "again.jsonl")
    assert set(read(Path("again.jsonl"))[0]["scores"]) == {"anls", "relaxed_accuracy", "cer"}
    call(monkeypatch, str(answers), *options)


@pytest.mark.parametrize(
    "name", ["relaxed_accuracy", "anls", "vqa_accuracy", "exact_match", "ocrbench", "choice"]
)
def test_golden_lines_are_scored_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = GOLDEN / f"{name}.jsonl"
    cases = read(source)
    for case in cases:
        del case["scores"]
    write(tmp_path / "answers.jsonl", cases)
    out = tmp_path / "scored.jsonl"
    call(monkeypatch, str(tmp_path / "answers.jsonl"), "--metric", name, "--out", str(out))
    assert [line["scores"][name] for line in read(out)] == pytest.approx(
        [case["score"] for case in cases]
    )


def test_it_is_quick_and_needs_no_torch(answers: Path) -> None:
    script = (
        "import sys; sys.argv = ['dsvl-tune', 'score', 'answers.jsonl', '--metric', 'anls']\n"
        "from dsvl_tune.cli.main import main\n"
        "main(); print({'torch', 'lightning', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.endswith("set()\n"), done.stderr


def test_metrics_are_chosen_by_the_references(
    answers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(answers, [{"answer": '{"total":1}', "reference": '{"total": 1}'}])
    call(monkeypatch, str(answers))
    printed = capsys.readouterr().out
    assert "metrics: json_fields (the references are JSON)" in printed
    assert "json_fields.total" in printed


def test_lines_without_a_reference_are_counted(
    answers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(answers, [*LINES, {"answer": "x", "references": []}])
    call(monkeypatch, str(answers), "--metric", "anls", "--out", "scored.jsonl")
    assert read(Path("scored.jsonl"))[-1]["scores"] == {}
    assert "1 of 4 lines have no reference" in capsys.readouterr().out


def test_escaped_pairs_are_characters(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = '{"answer": "\\ud83d\\ude00", "reference": "\N{GRINNING FACE}"}\n'
    answers.write_text(line, encoding="utf-8")
    call(monkeypatch, str(answers), "--metric", "cer", "--out", "scored.jsonl")
    assert read(Path("scored.jsonl"))[0]["scores"] == {"cer": 0.0}


def test_a_metric_of_the_user(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("user_scores.py").write_text(
        "from dsvl_tune.evaluation.metrics import Metric\n"
        "class Length(Metric):\n"
        "    name = 'length'\n"
        "    def score(self, prediction, references):\n"
        "        return float(len(prediction))\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    call(monkeypatch, str(answers), "--metric", "user_scores.Length", "--out", "scored.jsonl")
    assert [line["scores"]["length"] for line in read(Path("scored.jsonl"))] == [4, 5, 4]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", ["answers.jsonl:4", "not JSON"]),
        ("[1]", ["answers.jsonl:4", "not a JSON object"]),
        ('{"reference": "x"}', ["answers.jsonl:4", "'answer'", "'prediction'"]),
        ('{"answer": "x"}', ["answers.jsonl:4", "'references'"]),
        ('{"answer": 5, "reference": "x"}', ["answers.jsonl:4", "answer: 5, expected a text"]),
        ('{"answer": null, "reference": "x"}', ["answer: null, expected a text"]),
        ('{"answer": "\\ud83d", "reference": "1"}', ["answers.jsonl:4", "surrogate pair"]),
        ('{"answer": "x", "references": [5]}', ["answers.jsonl:4", "references", "list of texts"]),
        ('{"answer": "x", "prediction": "y", "reference": "z"}', ["answers.jsonl:4", "differ"]),
        ('{"answer": "x", "reference": "red"}', ["answers.jsonl:4", "numeric_error", "'red'"]),
    ],
)
def test_bad_lines(
    answers: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    named: list[str],
) -> None:
    write(answers, [{"answer": "3", "reference": "3"}] * 3)
    with answers.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    arguments = ["score", str(answers), "--metric", "numeric_error", "--out", "scored.jsonl"]
    error = refused(arguments, capsys, monkeypatch)
    assert all(text in error for text in named), error


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["answers.jsonl", "--metric", "anlss"], ["anlss", "'anls'"]),
        (["answers.jsonl", "--metric", "anls", "--metric", "anls"], ["two metrics"]),
        (["answers.jsonl", "--metric", "no.Such"], ["no.Such", "class path"]),
        (["answers.jsonl", "--metric", "json.JSONDecoder"], ["JSONDecoder", "Metric"]),
        (["missing.jsonl"], ["missing.jsonl", "could not be read"]),
        (["empty.jsonl"], ["empty.jsonl", "no line"]),
        (["answers.jsonl", "--metric", "anls", "--out", "answers.jsonl"], ["input"]),
        (["answers.jsonl", "--metric", "anls", "--out", "other.jsonl"], ["not written by this"]),
        (["answers.jsonl", "--metric", "anls", "--out", "no/x.jsonl"], ["no such folder"]),
    ],
)
def test_wrong_options(
    answers: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    named: list[str],
) -> None:
    Path("empty.jsonl").write_text("")
    write(Path("other.jsonl"), [{"answer": "another", "reference": "x", "scores": {}}])
    kept = Path("other.jsonl").read_bytes()
    error = refused(["score", *arguments], capsys, monkeypatch)
    assert all(text in error for text in named), error
    assert Path("other.jsonl").read_bytes() == kept


def test_help_names_the_metrics() -> None:
    done = run("score", "--help")
    assert done.returncode == 0
    assert "json_fields" in done.stdout and "--metric" in done.stdout
