"""POPE (arXiv 2305.10355): is an object in the picture? Three sets, which share questions."""

from __future__ import annotations

from dsvl_tune.evaluation.benchmarks.base import Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout
from dsvl_tune.evaluation.benchmarks.layouts.files import json_line_records, parquet_records
from dsvl_tune.evaluation.benchmarks.layouts.tsv import tsv_layout
from dsvl_tune.evaluation.benchmarks.prompts import ask_plainly
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.metrics.yes_no import VLMEvalKitYesNo, YesNo

INSTRUCTION = "Please answer yes or no."
"""What VLMEvalKit's questions end with, and those of the official files do not."""
FIGURES = ("", "_precision", "_recall", "_f1", "_yes_ratio")


def _official_row(record: FileRecord) -> BenchmarkRow:
    """The row of a line of coco_pope_CATEGORY.json."""
    category = record.file.stem.rpartition("_")[2]
    cells = {
        "question": f"{record.text('text')} {INSTRUCTION}",
        "answer": record.text("label"),
        "category": category,
    }
    images = record.images("image", folders=("images", "val2014", "."))
    return record.row(f"{category}_{record.text('question_id')}", images, cells)


def _lmms_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of lmms-lab/POPE."""
    cells = {
        "question": f"{record.text('question')} {INSTRUCTION}",
        "answer": record.text("answer"),
        "category": record.text("category"),
    }
    return record.row(record.text("id"), record.images("image"), cells)


POPE = Benchmark(
    name="pope",
    layouts=(
        tsv_layout("POPE.tsv", "category"),
        Layout(
            name="lmms-lab's parquet",
            files=("test-*.parquet", "data/test-*.parquet"),
            fields=("id", "question", "answer", "image", "category"),
            records=parquet_records,
            row=_lmms_row,
            index="id",
        ),
        Layout(
            name="official JSON lines",
            files=("coco_pope_*.json",),
            fields=("question_id", "image", "text", "label"),
            records=json_line_records,
            row=_official_row,
            index="question_id",
        ),
    ),
    dataset="POPE",
    prompt=ask_plainly,
    references=lambda row: (row.text("answer").lower(),),
    rules=(
        Rule(
            name="official",
            metric=YesNo(),
            figures=tuple(f"yes_no{one}" for one in FIGURES),
        ),
        Rule(
            name="vlmevalkit",
            metric=VLMEvalKitYesNo(),
            figures=tuple(f"yes_no{one}" for one in (*FIGURES, "_unread")),
            repeated=True,
        ),
    ),
    candidates=lambda row: {"Yes": "Yes", "No": "No"},
    breakdown=("category",),
    separator=",",
    paper=(87.6, 88.1),
    note="papers give the mean F1 of the three categories; DeepSeek-VL's does not say which figure",
)
