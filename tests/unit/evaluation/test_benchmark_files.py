"""Prompts and scores of benchmarks against what VLMEvalKit makes of the same files."""

from __future__ import annotations

import json
import shutil
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import ImageRef
from dsvl_tune.evaluation.benchmarks import BENCHMARKS
from dsvl_tune.evaluation.benchmarks.grades import grade_report, read_grades
from dsvl_tune.evaluation.benchmarks.layouts.open import OpenedBenchmark, open_benchmark
from dsvl_tune.evaluation.benchmarks.mmmu import DOMAIN_OF
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.benchmarks.scoring import (
    benchmark_answer,
    check_rows,
    score_benchmark,
)

GOLDEN = Path(__file__).parents[2] / "golden"
SAMPLES = GOLDEN / "benchmark_samples"


def golden(name: str) -> list[dict[str, Any]]:
    text = (GOLDEN / "benchmarks" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def opened(name: str, data: str | Path) -> OpenedBenchmark:
    return open_benchmark(BENCHMARKS[name], str(data))


def prompt(name: str, row: BenchmarkRow) -> str:
    """The message of a row, as VLMEvalKit's adapter for DeepSeek-VL joins it."""
    return "".join(
        "<image_placeholder>" if isinstance(part, ImageRef) else part
        for part in BENCHMARKS[name].parts(row)
    )


WITH_TSV = [name for name in BENCHMARKS if name != "cmmmu"]


@pytest.mark.parametrize("name", WITH_TSV)
def test_prompts_are_those_of_vlmevalkit(name: str) -> None:
    rows = opened(name, SAMPLES).rows
    expected = {
        case["index"]: case["flat"]
        for case in golden("prompts")
        if case["harness"] == "VLMEvalKit" and case["file"] == f"{BENCHMARKS[name].dataset}.tsv"
    }
    assert {row.index: prompt(name, row) for row in rows} == expected
    assert all(BENCHMARKS[name].references(row) for row in rows)


LAYOUTS = [
    ("chartqa", "chartqa_official", 6),
    ("chartqa", "lmms_ChartQA", 6),
    ("chartqa", "hfm4_ChartQA", 6),
    ("docvqa", "docvqa_official", 6),
    ("docvqa", "lmms_DocVQA", 6),
    ("infovqa", "lmms_DocVQA", 6),
    ("textvqa", "textvqa_official", 6),
    ("textvqa", "lmms_textvqa", 6),
    ("ocrbench", "ocrbench_official", 8),
    ("ocrbench", "lmms_OCRBench", 8),
    ("mathvista", "mathvista_official/testmini.json", 8),
    ("mathvista", "mathvista_official", 8),
    ("mmmu", "mmmu_official", 6),
    ("mmmu", "lmms_MMMU", 6),
    ("mmvet", "mmvet_official", 6),
    ("mmvet", "lmms_MMVet", 6),
    ("mmbench", "lmms_MMBench", 9),
    ("mmbench_cn", "lmms_MMBench", 9),
    ("seed_bench", "seed_official", 9),
    ("seed_bench", "lmms_SEED-Bench", 9),
    ("scienceqa", "scienceqa_official", 1),
    ("scienceqa", "lmms_ScienceQA", 6),
    ("ai2d", "lmms_ai2d", 6),
    ("pope", "pope_official", 18),
    ("pope", "lmms_POPE", 18),
]


@pytest.mark.parametrize(("name", "folder", "rows"), LAYOUTS)
def test_every_layout_asks_what_the_tsv_asks(name: str, folder: str, rows: int) -> None:
    benchmark = BENCHMARKS[name]

    def questions(found: OpenedBenchmark) -> set[tuple[str, frozenset[str]]]:
        return {(prompt(name, row), frozenset(benchmark.references(row))) for row in found.rows}

    found = opened(name, SAMPLES / folder)
    assert len(found.rows) == rows
    assert questions(found) <= questions(opened(name, SAMPLES))
    columns = {column for row in found.rows for column in row.cells}
    assert name == "ai2d" or set(benchmark.breakdown) <= columns  # lmms-lab's has no categories


def test_cmmmu_from_its_lines_and_from_the_same_rows_as_parquet_and_tsv(tmp_path: Path) -> None:
    folder = SAMPLES / "cmmmu_official"
    lines = opened("cmmmu", folder).rows
    assert prompt("cmmmu", lines[1]).startswith("<image_placeholder><image_placeholder>问题: 比较")
    assert "Options:\nA. 甲\nB. 乙" in prompt("cmmmu", lines[1])
    assert "<图片 2>" in prompt("cmmmu", lines[1])
    records = [
        json.loads(line)
        for line in (folder / "science/science.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for record in records:
        shown = [*record.pop("img_list"), *[None] * 5][:5]
        for number, image in enumerate(shown, 1):
            content = image and {"bytes": (folder / "science" / image).read_bytes(), "path": None}
            record |= {f"image_{number}": content, f"image_{number}_filename": image}
    (tmp_path / "science").mkdir()
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "science/val-00000-of-00001.parquet")
    from_parquet = opened("cmmmu", tmp_path).rows
    assert [prompt("cmmmu", row) for row in from_parquet] == [prompt("cmmmu", row) for row in lines]
    assert [row.cells for row in from_parquet] == [row.cells for row in lines]
    kept = ("type", "question", "option1", "option2", "option3", "option4", "answer", "category")
    table = [["index", "image", *kept]]
    for row in lines:
        images = [b64encode(Path(image.content).read_bytes()).decode() for image in row.images]  # type: ignore[arg-type]
        cell = images[0] if len(images) == 1 else repr(images)
        table.append([row.index, cell, *(row.cells.get(name, "") for name in kept)])
    write(tmp_path / "CMMMU_VAL.tsv", *table)
    from_tsv = opened("cmmmu", tmp_path)
    assert from_tsv.layout.name == "VLMEvalKit's TSV"
    assert [prompt("cmmmu", row) for row in from_tsv.rows] == [
        prompt("cmmmu", row) for row in lines
    ]


@pytest.mark.parametrize("name", ["mathvista", "cmmmu"])
def test_a_chosen_option_is_read_as_that_option(name: str) -> None:
    """Each candidate is right by the official rule exactly where its option is the answer."""
    folder = SAMPLES / "cmmmu_official" if name == "cmmmu" else SAMPLES
    benchmark = BENCHMARKS[name]
    assert benchmark.candidates is not None
    asked = 0
    for row in opened(name, folder).rows:
        for chosen, text in benchmark.candidates(row).items():
            answer = benchmark_answer(benchmark, row, chosen)
            expected = row.text("answer") in (chosen, text)
            assert benchmark.rules[0].metric.score_answer(answer) == expected, (row.source, chosen)
            asked += 1
    assert asked


def test_infographics_from_the_official_file(tmp_path: Path) -> None:
    """Its images are named by another field than DocVQA's, and are in `images/`."""
    source = SAMPLES / "docvqa_official"
    content = json.loads((source / "val_v1.0_withQT.json").read_text(encoding="utf-8"))
    (tmp_path / "images").mkdir()
    for record in content["data"]:
        image = Path(record.pop("image"))
        record["image_local_name"] = image.name
        shutil.copy(source / image, tmp_path / "images" / image.name)
    file = tmp_path / "infographicsVQA_val_v1.0_withQT.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    rows = opened("infovqa", tmp_path).rows
    assert [row.cells for row in rows] == [row.cells for row in opened("docvqa", source).rows]
    assert all(Path(image.content).parent.name == "images" for row in rows for image in row.images)  # type: ignore[arg-type]


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
            BenchmarkRow(
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


def test_pope_is_counted_as_vlmevalkit_does() -> None:
    for table in golden("pope_tables"):
        rows = [
            BenchmarkRow(str(n), (), {"answer": row["answer"], "category": row["category"]}, "row")
            for n, row in enumerate(table["rows"])
        ]
        texts = {str(n): row["prediction"] for n, row in enumerate(table["rows"])}
        rule = score_benchmark(BENCHMARKS["pope"], rows, texts)[1]
        splits = {"Overall": rule["figures"], **rule["breakdown"]["category"]}
        assert set(splits) == {expected["split"] for expected in table["vlmevalkit"]}
        for expected in table["vlmevalkit"]:
            found = splits[expected["split"]]
            named = {"Overall": "f1", "precision": "precision", "recall": "recall"}
            for key, name in named.items():
                assert 100 * found[f"yes_no_{name}"] == pytest.approx(expected[key], abs=1e-4)
            assert 100 * found["yes_no"] == pytest.approx(expected["acc"], abs=1e-4)


def test_mmmu_has_the_official_accuracy_of_subjects_and_domains() -> None:
    for table in golden("mmmu_tables"):
        questions = [row for row in table["rows"] if row["question_type"] == "multiple-choice"]
        assert questions == table["rows"]
        rows, texts = [], {}
        for row in questions:
            subject = row["id"].removeprefix("validation_").rpartition("_")[0]
            cells = dict.fromkeys("ABCDEFGHI", "option")
            cells |= {"answer": row["answer"], "category": subject, "domain": DOMAIN_OF[subject]}
            rows.append(BenchmarkRow(row["id"], (), cells, "row"))
            texts[row["id"]] = f"({row['parsed_pred']})"
        report = score_benchmark(BENCHMARKS["mmmu"], rows, texts)[0]
        assert report["figures"]["mmmu"] == pytest.approx(table["overall"])
        for column, key in (("category", "subjects"), ("domain", "domains")):
            found = {name: one["mmmu"] for name, one in report["breakdown"][column].items()}
            expected = {name: one["acc"] for name, one in table[key].items()}
            for name, accuracy in found.items():
                assert accuracy == pytest.approx(expected[name])


def test_mmvet_sums_up_grades_as_vlmevalkit_does() -> None:
    for table in golden("mmvet_tables"):
        rows = [
            BenchmarkRow(str(n), (), {"category": row["category"]}, "row")
            for n, row in enumerate(table["rows"])
        ]
        grades = {str(n): row["score"] for n, row in enumerate(table["rows"])}
        report = grade_report(rows, grades, "grades")
        # VLMEvalKit keeps capabilities and combinations under one name: a question that needs one
        # capability alone counts twice there, and once here.
        nothing = {"grade": 0.0, "questions": 0}
        combined = report["combination"]
        for expected in table["vlmevalkit"]["per_capability"][:-1]:
            name = expected["Category"]
            parts = [report["capability"][name], combined.pop(name, nothing)]
            questions = sum(one["questions"] for one in parts)
            total = sum(one["questions"] * one["grade"] for one in parts)
            assert questions == expected["tot"]
            assert 100 * total / questions == pytest.approx(expected["acc"])
        overall = table["vlmevalkit"]["per_capability"][-1]
        assert report["overall"]["all"] == {
            "grade": pytest.approx(overall["acc"] / 100),
            "questions": overall["tot"],
        }
        expected_combined = {
            one["Category"]: (one["tot"], pytest.approx(one["acc"]))
            for one in table["vlmevalkit"]["per_integration"]
            if "_" in one["Category"]
        }
        assert {
            name: (one["questions"], 100 * one["grade"]) for name, one in combined.items()
        } == expected_combined


def test_grades_of_the_official_evaluator_and_of_vlmevalkit(tmp_path: Path) -> None:
    official = {f"v1_{n}": {"model": "gpt-4", "score": [0.5, n / 10]} for n in range(6)}
    (tmp_path / "g.json").write_text(json.dumps(official), encoding="utf-8")
    lines = ["index\tscore", *(f"{n}\t{(0.5 + n / 10) / 2}" for n in range(6))]
    (tmp_path / "g.tsv").write_text("\n".join(lines), encoding="utf-8")
    grades = read_grades(tmp_path / "g.json")
    assert grades == pytest.approx({str(n): (0.5 + n / 10) / 2 for n in range(6)})
    assert read_grades(tmp_path / "g.tsv") == pytest.approx(grades)
    rows = opened("mmvet", SAMPLES).rows
    assert grade_report(rows, grades, "g")["overall"]["all"]["questions"] == 6
    for bad, named in (
        ({**official, "v1_2": {"score": [1.5]}}, "question v1_2: score is '[1.5]'"),
        ({**official, "v1_9": {"score": 1}}, "a question 9"),
        ({"v1_0": {"score": 1}}, "no grade of question 1"),
    ):
        (tmp_path / "g.json").write_text(json.dumps(bad), encoding="utf-8")
        with pytest.raises(UserError) as raised:
            grade_report(rows, read_grades(tmp_path / "g.json"), "g.json")
        assert named in str(raised.value), raised.value


def write(path: Path, *rows: list[str]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


IMAGE = (SAMPLES / "POPE.tsv").read_text(encoding="utf-8").splitlines()[1].split("\t")[1]
HEADER = ["index", "image", "question", "A", "B", "answer", "category"]


def row(index: str, image: str) -> list[str]:
    return [index, image, "?", "a", "b", "A", "c"]


def test_options_that_look_missing_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "AI2D_TEST.tsv"
    write(path, HEADER, ["1", IMAGE, "Which?", "None", "NA", "A", "null"])
    (row,) = opened("ai2d", tmp_path).rows
    assert row.options == {"A": "None", "B": "NA"}
    assert "A. None\nB. NA\n" in BENCHMARKS["ai2d"].prompt(row)
    assert row.cells["category"] == "null"


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([["index", "question"], ["1", "?"]], ["no field 'image'"]),
        ([HEADER, ["1", IMAGE, "?"]], ["row 1", "cells"]),
        ([HEADER, row("1", IMAGE), row("1", IMAGE)], ["row 2", "index '1'", "twice", "row 1"]),
        ([HEADER, row("1", "7")], ["row 1", "'7'", "index"]),
        ([HEADER, row("1", "")], ["row 1", "image is empty"]),
        ([HEADER, row("1", "*" * 80)], ["row 1", "base64"]),
        ([HEADER, row("1", IMAGE), [*row("2", IMAGE)[:5], "", "c"]], ["row 2", "no answer"]),
        ([HEADER], ["no question"]),
    ],
)
def test_bad_tsv_files(tmp_path: Path, rows: list[list[str]], named: list[str]) -> None:
    write(tmp_path / "AI2D_TEST.tsv", *rows)
    with pytest.raises(UserError) as raised:
        opened("ai2d", tmp_path)
    assert all(text in str(raised.value) for text in ["AI2D_TEST.tsv", *named]), raised.value


def test_a_rotation_without_a_number(tmp_path: Path) -> None:
    text = (SAMPLES / "MMBench_DEV_EN.tsv").read_text(encoding="utf-8")
    (tmp_path / "MMBench_DEV_EN.tsv").write_text(text.replace("\n1000241\t", "\nx\t"))
    with pytest.raises(UserError, match="row 2: field 'index' is 'x'. Expected a number"):
        opened("mmbench", tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "named"),
    [
        ("chartqa", "test/test_human.json", '"query": "Is', '"quer": "Is', ["row 2", "'query'"]),
        ("chartqa", "test/test_human.json", "1.png", "9.png", ["row 2", "'imgname'", "9.png"]),
        ("chartqa", "test/test_human.json", "[", "{", ["test_human.json", "not JSON"]),
        ("pope", "coco_pope_random.json", '"question_id": 2', '"question_id": 1', ["row 2"]),
        ("pope", "coco_pope_random.json", '"label": "no"}\n{"question_id": 3', "", ["not JSON"]),
        ("scienceqa", "problems.json", '"answer": 0', '"answer": 7', ["entry '1'", "'answer'"]),
        ("docvqa", "val_v1.0_withQT.json", '"data":', '"rows":', ["no field 'data'"]),
        ("docvqa", "val_v1.0_withQT.json", '"questionId": 1001', '"questionId": 1000', ["twice"]),
        ("mmvet", "mm-vet.json", '"capability"', '"skills"', ["no field 'capability'"]),
        ("cmmmu", "science/science.jsonl", "判断", "作文", ["row 3", "'type'", "判断"]),
    ],
)
def test_bad_official_files(
    tmp_path: Path, name: str, file: str, old: str, new: str, named: list[str]
) -> None:
    shutil.copytree(SAMPLES / f"{name}_official", tmp_path, dirs_exist_ok=True)
    text = (tmp_path / file).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as raised:
        opened(name, tmp_path)
    assert all(one in str(raised.value) for one in [Path(file).name, *named]), raised.value


@pytest.mark.parametrize(
    ("name", "row", "column", "cell", "named"),
    [
        ("chartqa", 2, "question", "", "question is empty"),
        ("mathvista", 3, "precision", "one", "'precision' is 'one'. Expected a number"),
        ("mathvista", 1, "choices", "", "choices is empty"),
        ("mathvista", 1, "question_type", "quiz", "'quiz'. Expected one of multi_choice"),
        ("mathvista", 2, "answer", "twelve", "reference 'twelve', expected integer"),
        ("mathvista", 1, "answer", "ninth", "reference 'ninth', expected one of ['first'"),
        ("cmmmu", 1, "answer", "AZ", "reference 'AZ', expected A or B or C or D"),
        ("cmmmu", 3, "answer", "A", "reference 'A', expected 对 or 错"),
    ],
)
def test_rows_that_cannot_be_asked_or_scored(
    name: str, row: int, column: str, cell: str, named: str
) -> None:
    rows = list(opened(name, SAMPLES / "cmmmu_official" if name == "cmmmu" else SAMPLES).rows)
    cells = {**rows[row - 1].cells, column: cell}
    rows[row - 1] = replace(rows[row - 1], cells={key: text for key, text in cells.items() if text})
    with pytest.raises(UserError) as raised:
        check_rows(BENCHMARKS[name], rows)
    assert all(text in str(raised.value) for text in (f"row {row}", named)), raised.value


def test_files_of_another_benchmark() -> None:
    with pytest.raises(UserError, match=r"test-00000-of-00001.parquet: no field 'options', which"):
        opened("ai2d", SAMPLES / "lmms_ChartQA")


def test_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "test-0.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(UserError, match=r"test-0.parquet: not a parquet file"):
        opened("ai2d", tmp_path)


def test_a_folder_without_files_and_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file of pope") as raised:
        opened("pope", tmp_path)
    assert "POPE.tsv" in str(raised.value) and "coco_pope_*.json" in str(raised.value)
    with pytest.raises(UserError, match="no such folder"):
        opened("pope", tmp_path / "nowhere")
