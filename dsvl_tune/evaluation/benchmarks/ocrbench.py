"""OCRBench (arXiv 2305.07895): points of 1,000."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsvl_tune.evaluation.benchmarks.base import Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout
from dsvl_tune.evaluation.benchmarks.layouts.files import json_records, parquet_records
from dsvl_tune.evaluation.benchmarks.layouts.tsv import tsv_layout
from dsvl_tune.evaluation.benchmarks.prompts import ask_plainly
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.metrics.ocrbench import FORMULAS, OCRBench


def _official_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of OCRBench.json; `answers` is a text or a list."""
    cells = {
        "question": record.text("question"),
        "answer": repr(list(record.texts("answers"))),
        "category": record.text("type"),
        "dataset_name": record.text("dataset_name"),
    }
    images = record.images("image_path", folders=("OCRBench_Images",))
    return record.row(record.text("id"), images, cells)


def _parquet_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of echo840/OCRBench."""
    cells = {
        "question": record.text("question"),
        "answer": repr(list(record.texts("answer"))),
        "category": record.text("question_type"),
        "dataset_name": record.text("dataset"),
    }
    return record.row(record.number, record.images("image"), cells)


def _dataset(row: BenchmarkRow) -> Mapping[str, Any]:
    """The data set of a row: of the TSV's categories one is HME100k."""
    if "dataset_name" in row.cells:
        return {"dataset_name": row.cells["dataset_name"]}
    is_formula = row.cells.get("category") == "Handwritten Mathematical Expression Recognition"
    return {"dataset_name": FORMULAS} if is_formula else {}


OCRBENCH = Benchmark(
    name="ocrbench",
    layouts=(
        tsv_layout("OCRBench.tsv", "category"),
        Layout(
            name="the hub's parquet",
            files=("test-*.parquet", "data/test-*.parquet"),
            fields=("dataset", "question", "question_type", "answer", "image"),
            records=parquet_records,
            row=_parquet_row,
        ),
        Layout(
            name="official JSON",
            files=("OCRBench.json",),
            fields=("dataset_name", "id", "image_path", "question", "answers", "type"),
            records=json_records(),
            row=_official_row,
            index="id",
        ),
    ),
    dataset="OCRBench",
    prompt=ask_plainly,
    references=lambda row: row.texts("answer"),
    fields=_dataset,
    rules=(Rule(name="official", metric=OCRBench(), figures=("ocrbench",)),),
    breakdown=("category",),
    paper=(40.9, 45.6),
    note="points of 1,000 are ten times the percentage of all 1,000 questions",
)
