"""SEED-Bench (arXiv 2307.16125), the image questions."""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_tune.evaluation.benchmarks.base import Benchmark
from dsvl_tune.evaluation.benchmarks.choice_sets import choice_rule, letter, option_texts, options
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout
from dsvl_tune.evaluation.benchmarks.layouts.files import json_records, parquet_records
from dsvl_tune.evaluation.benchmarks.layouts.tsv import tsv_layout
from dsvl_tune.evaluation.benchmarks.prompts import ask_choice
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow

TYPES = {
    "1": "Scene Understanding",
    "2": "Instance Identity",
    "3": "Instance Attributes",
    "4": "Instance Location",
    "5": "Instances Counting",
    "6": "Spatial Relation",
    "7": "Instance Interaction",
    "8": "Visual Reasoning",
    "9": "Text Understanding",
}
"""Question types with images by `question_type_id` (SEED-Bench.json, "question_type")."""
_FIELDS = (
    "question_id",
    "question",
    *(f"choice_{letter}" for letter in "abcd"),
    "answer",
    "data_type",
    "question_type_id",
)


def _row(record: FileRecord, image: str, folders: Sequence[str]) -> BenchmarkRow | None:
    """The row of a record; None for a question about a video."""
    if record.text("data_type") != "image":
        return None
    cells = {
        "question": record.text("question"),
        **{one.upper(): record.optional(f"choice_{one}") for one in "abcd"},
        "answer": record.optional("answer"),
        "category": TYPES.get(record.text("question_type_id"), ""),
    }
    return record.row(record.text("question_id"), record.images(image, folders=folders), cells)


SEED_BENCH = Benchmark(
    name="seed_bench",
    layouts=(
        tsv_layout("SEEDBench_IMG.tsv", "A", "category"),
        Layout(
            name="lmms-lab's parquet",
            files=("test-*.parquet", "data/test-*.parquet"),
            fields=(*_FIELDS, "image"),
            records=parquet_records,
            row=lambda record: _row(record, "image", ()),
            index="question_id",
        ),
        Layout(
            name="official JSON",
            files=("SEED-Bench.json",),
            fields=(*_FIELDS, "data_id"),
            records=json_records("questions"),
            row=lambda record: _row(record, "data_id", ("SEED-Bench-image",)),
            index="question_id",
        ),
    ),
    dataset="SEEDBench_IMG",
    prompt=ask_choice,
    references=letter,
    fields=options,
    candidates=option_texts,
    rules=(
        choice_rule("vlmevalkit", "vlmevalkit"),
        choice_rule("lmms_eval", "first_character"),
    ),
    breakdown=("category",),
    paper=(66.7, 70.4),
)
