"""`dsvl-tune benchmark` with a random small model of the families that the package has none of."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from dsvl_tune.cli.main import main

SAMPLES = Path(__file__).parents[1] / "golden" / "benchmark_samples"
FILES = {"chartqa": "ChartQA_TEST.tsv", "mmbench": "MMBench_DEV_EN.tsv", "pope": "POPE.tsv"}


@pytest.mark.parametrize("family", ["janus", "deepseek_vl2"])
def test_every_question_is_answered_and_scored(
    family: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = request.getfixturevalue(f"{family}_checkpoint")
    out = tmp_path / "results"
    arguments = ["--model", str(folder), "--data", str(SAMPLES), "--max_new_tokens", "3"]
    monkeypatch.setattr(
        sys, "argv", ["dsvl-tune", "benchmark", *FILES, *arguments, "--out", str(out)]
    )
    main()
    for name, file in FILES.items():
        with (SAMPLES / file).open(encoding="utf-8", newline="") as rows:
            indices = [row["index"] for row in csv.DictReader(rows, delimiter="\t")]
        lines = (out / f"{name}_answers.jsonl").read_text(encoding="utf-8").splitlines()
        answers = [json.loads(line) for line in lines]
        assert [answer["index"] for answer in answers] == indices
        assert all("<|User|>: " in answer["prompt"] for answer in answers)
        report = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        assert all(rule["figures"] for rule in report["rules"])
