"""TextVQA (arXiv 1904.08920), validation split."""

from __future__ import annotations

from typing import Any

from dsvl_tune.evaluation.benchmarks.base import Answered, Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout
from dsvl_tune.evaluation.benchmarks.layouts.files import json_records, parquet_records
from dsvl_tune.evaluation.benchmarks.layouts.tsv import tsv_layout
from dsvl_tune.evaluation.benchmarks.prompts import ask_short
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.metrics.vqa_accuracy import VQAAccuracy


def _cells(record: FileRecord) -> dict[str, str]:
    """Question and answers, which both layouts name alike."""
    answers = record.texts("answers")
    return {
        "question": record.text("question"),
        "answer": repr(list(answers)) if answers else "",
    }


def _official_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record, whose image has its id as name; val shows images of train."""
    name = f"{record.text('image_id')}.jpg"
    shown = FileRecord(record.file, record.place, {"image_id": name}, record.number)
    images = shown.images("image_id", folders=("train_images", "test_images"))
    return record.row(record.text("question_id"), images, _cells(record))


def _lmms_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of lmms-lab/textvqa."""
    return record.row(record.text("question_id"), record.images("image"), _cells(record))


def _submission(answered: Answered) -> list[dict[str, Any]]:
    """The file that the challenge's server takes."""
    return [{"question_id": int(row.index), "answer": text} for row, text in answered]


TEXTVQA = Benchmark(
    name="textvqa",
    layouts=(
        tsv_layout("TextVQA_VAL.tsv"),
        Layout(
            name="lmms-lab's parquet",
            files=("validation-*.parquet", "data/validation-*.parquet"),
            fields=("question_id", "question", "image"),
            records=parquet_records,
            row=_lmms_row,
            index="question_id",
        ),
        Layout(
            name="official JSON",
            files=("TextVQA_0.5.1_val.json",),
            fields=("question_id", "question", "image_id"),
            records=json_records("data"),
            row=_official_row,
            index="question_id",
        ),
    ),
    dataset="TextVQA_VAL",
    prompt=ask_short,
    references=lambda row: row.texts("answer"),
    rules=(Rule(name="official", metric=VQAAccuracy(), figures=("vqa_accuracy",)),),
    submission=_submission,
)
