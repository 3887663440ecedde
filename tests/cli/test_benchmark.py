"""`dsvl-tune benchmark` on small files of each layout, with the embedded model."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from command_line import refused

from dsvl_tune.cli.main import main
from dsvl_tune.evaluation.benchmarks import BENCHMARKS

SAMPLES = Path(__file__).parents[1] / "golden" / "benchmark_samples"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "benchmark", *arguments])
    main()


def test_every_benchmark_runs_and_says_its_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--data", str(SAMPLES), "--out", "results", "--max_new_tokens", "4"]
    call(monkeypatch, *BENCHMARKS, *options)
    printed = capsys.readouterr().out
    for name, benchmark in BENCHMARKS.items():
        report = json.loads(Path(f"results/{name}.json").read_text(encoding="utf-8"))
        assert [one["rule"] for one in report["rules"]] == [one.name for one in benchmark.rules]
        for rule in benchmark.rules:
            lines = (" ".join(line.split()) for line in printed.splitlines())
            line = next(line for line in lines if line.startswith(f"{name} {rule.name} "))
            assert "%" in line
        answers = Path(f"results/{name}_answers.jsonl").read_text(encoding="utf-8").splitlines()
        stem = Path(benchmark.file).stem
        with Path(f"results/embedded_{stem}.tsv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        texts = [json.loads(line)["answer"] for line in answers]
        assert [row["prediction"] for row in rows] == texts
        assert Path(f"results/{name}_submission.json").is_file() == bool(benchmark.submission)
    assert "mmvet: no figure" in printed
    assert not list(Path("results").glob(".*"))
    submission = json.loads(Path("results/docvqa_submission.json").read_text(encoding="utf-8"))
    assert set(submission[0]) == {"questionId", "answer"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["mmbnch", "--data", "."], ["mmbnch", "'mmbench'"]),
        (["pope", "--data", "."], ["POPE.tsv", "could not be read"]),
        (["pope", "--data", ".", "--batch_size", "0"], ["--batch_size"]),
    ],
)
def test_bad_arguments(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    named: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(["benchmark", *arguments], capsys, monkeypatch)
    assert all(text in error for text in named), error


def test_a_label_that_the_rule_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (SAMPLES / "POPE.tsv").read_text(encoding="utf-8")
    Path("POPE.tsv").write_text(text.replace("\tNo\t", "\tmaybe\t"), encoding="utf-8")
    error = refused(["benchmark", "pope", "--data", "."], capsys, monkeypatch)
    assert "POPE.tsv, row 2" in error and "maybe" in error
