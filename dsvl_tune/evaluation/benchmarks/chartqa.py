"""ChartQA (arXiv 2203.10244), test split: human and augmented questions."""

from __future__ import annotations

from dsvl_tune.evaluation.benchmarks.base import Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout
from dsvl_tune.evaluation.benchmarks.layouts.files import json_records, parquet_records
from dsvl_tune.evaluation.benchmarks.layouts.tsv import tsv_layout
from dsvl_tune.evaluation.benchmarks.prompts import ask_short
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.metrics import RelaxedAccuracy

HUMAN, AUGMENTED = "test_human", "test_augmented"
PARQUET = ("test-*.parquet", "data/test-*.parquet")


def _official_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of vis-nlp/ChartQA, whose file name says who asked."""
    cells = {
        "question": record.text("query"),
        "answer": record.text("label"),
        "split": record.file.stem,
    }
    return record.row(record.number, record.images("imgname", folders=("png",)), cells)


def _lmms_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of lmms-lab/ChartQA."""
    cells = {
        "question": record.text("question"),
        "answer": record.text("answer"),
        "split": {"human_test": HUMAN, "augmented_test": AUGMENTED}.get(record.text("type"), ""),
    }
    return record.row(record.number, record.images("image"), cells)


def _hfm4_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of HuggingFaceM4/ChartQA; class 0 is human."""
    (answer,) = record.texts("label")
    cells = {
        "question": record.text("query"),
        "answer": answer,
        "split": HUMAN if record.optional("human_or_machine") == "0" else AUGMENTED,
    }
    return record.row(record.number, record.images("image"), cells)


CHARTQA = Benchmark(
    name="chartqa",
    layouts=(
        tsv_layout("ChartQA_TEST.tsv", "split"),
        Layout(
            name="official JSON",
            files=("test/test_human.json", "test/test_augmented.json"),
            fields=("imgname", "query", "label"),
            records=json_records(),
            row=_official_row,
        ),
        Layout(
            name="lmms-lab's parquet",
            files=PARQUET,
            fields=("type", "question", "answer", "image"),
            records=parquet_records,
            row=_lmms_row,
        ),
        Layout(
            name="HuggingFaceM4's parquet",
            files=PARQUET,
            fields=("image", "query", "label", "human_or_machine"),
            records=parquet_records,
            row=_hfm4_row,
        ),
    ),
    dataset="ChartQA_TEST",
    prompt=ask_short,
    references=lambda row: (row.text("answer"),),
    rules=(Rule(name="official", metric=RelaxedAccuracy(), figures=("relaxed_accuracy",)),),
    breakdown=("split",),
)
