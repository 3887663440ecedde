"""Prompts and scores of benchmarks against what VLMEvalKit makes of the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef
from dsvl_tune.evaluation.benchmarks import BENCHMARKS
from dsvl_tune.evaluation.benchmarks.scoring import score_benchmark
from dsvl_tune.evaluation.benchmarks.tsv import TsvRow, read_tsv

GOLDEN = Path(__file__).parents[2] / "golden"
SAMPLES = GOLDEN / "benchmark_samples"


def golden(name: str) -> list[dict[str, Any]]:
    text = (GOLDEN / "benchmarks" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_prompts_are_those_of_vlmevalkit(name: str) -> None:
    benchmark = BENCHMARKS[name]
    rows = read_tsv(SAMPLES / benchmark.file, ("question",))
    expected = {
        case["index"]: case["flat"]
        for case in golden("prompts")
        if case["harness"] == "VLMEvalKit" and case["file"] == benchmark.file
    }
    found = {
        row.index: "".join(
            "<image_placeholder>" if isinstance(part, ImageRef) else part
            for part in benchmark.parts(row)
        )
        for row in rows
    }
    assert found == expected
    assert all(benchmark.references(row) for row in rows)


def test_circular_evaluation_is_that_of_vlmevalkit() -> None:
    names = {
        "coarse_perception": "CP",
        "finegrained_perception (instance-level)": "FP-S",
        "finegrained_perception (cross-instance)": "FP-C",
        "logic_reasoning": "LR",
        "relation_reasoning": "RR",
        "attribute_reasoning": "AR",
    }
    for table in golden("mmbench_circular"):
        rows = [
            TsvRow(
                str(row["index"]),
                (),
                {key: str(value) for key, value in row.items() if value is not None},
                "table",
            )
            for row in table["rows"]
        ]
        texts = {row.index: row.cells["prediction"] for row in rows}
        (report,) = score_benchmark(BENCHMARKS["mmbench"], rows, texts)
        (expected,) = table["vlmevalkit"]["report"]
        assert report["figures"]["choice"] == pytest.approx(expected["Overall"])
        alone = table["vlmevalkit"]["every_rotation_alone"]
        assert report["figures"]["every_row_alone"] == pytest.approx(alone)
        assert report["questions"] == len(table["vlmevalkit"]["hits"])
        for column in ("l2-category", "category"):
            for value, figures in report["breakdown"][column].items():
                assert figures["choice"] == pytest.approx(expected[names.get(value, value)])


def write(path: Path, *rows: list[str]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


IMAGE = (SAMPLES / "POPE.tsv").read_text(encoding="utf-8").splitlines()[1].split("\t")[1]
HEADER = ["index", "image", "question", "A", "B", "answer"]


def test_options_that_look_missing_are_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv", HEADER, ["1", IMAGE, "Which?", "None", "NA", "A"])
    (row,) = read_tsv(path, ("question",))
    assert row.options == {"A": "None", "B": "NA"}
    assert "A. None\nB. NA\n" in BENCHMARKS["ai2d"].prompt(row)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([["index", "question"], ["1", "?"]], ["no column 'image'"]),
        ([HEADER, ["1", IMAGE, "?"]], ["row 1", "cells"]),
        ([HEADER, ["1", IMAGE, "?", "a", "b", "A"], ["1", IMAGE, "?", "a", "b", "A"]], ["twice"]),
        ([HEADER, ["1", "7", "?", "a", "b", "A"]], ["row 1", "'7'", "index"]),
        ([HEADER, ["1", "", "?", "a", "b", "A"]], ["row 1", "image is empty"]),
        ([HEADER, ["1", "*" * 80, "?", "a", "b", "A"]], ["row 1", "base64"]),
    ],
)
def test_bad_files(tmp_path: Path, rows: list[list[str]], named: list[str]) -> None:
    path = write(tmp_path / "x.tsv", *rows)
    with pytest.raises(UserError) as raised:
        read_tsv(path, ("question",))
    assert all(text in str(raised.value) for text in ["x.tsv", *named]), raised.value


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be read"):
        read_tsv(tmp_path / "x.tsv", ())
