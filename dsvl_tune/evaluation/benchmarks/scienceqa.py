"""ScienceQA (arXiv 2209.09513), the test questions with an image."""

from __future__ import annotations

from dsvl_tune.evaluation.benchmarks.base import Benchmark
from dsvl_tune.evaluation.benchmarks.choice_sets import choice_rule, letter, option_texts, options
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout
from dsvl_tune.evaluation.benchmarks.layouts.files import KEY, json_records, parquet_records
from dsvl_tune.evaluation.benchmarks.layouts.tsv import tsv_layout
from dsvl_tune.evaluation.benchmarks.prompts import ask_choice
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow

_FIELDS = ("question", "choices", "answer", "hint", "image", "subject", "category")


def _cells(record: FileRecord) -> dict[str, str]:
    """The cells of a record, which both layouts name alike."""
    choices = record.options("choices")
    return {
        "question": record.text("question"),
        "hint": record.optional("hint"),
        **choices,
        "answer": record.letter("answer", choices),
        "category": record.text("category"),
        "l2-category": record.text("subject"),
    }


def _official_row(record: FileRecord) -> BenchmarkRow | None:
    """The row of an entry of problems.json; None without an image, or outside the test split."""
    if record.text("split") != "test" or not record.optional("image"):
        return None
    key = record.text(KEY)
    return record.row(key, record.images("image", folders=(f"test/{key}",)), _cells(record))


def _lmms_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of lmms-lab/ScienceQA, config ScienceQA-IMG."""
    return record.row(record.number, record.images("image"), _cells(record))


SCIENCEQA = Benchmark(
    name="scienceqa",
    layouts=(
        tsv_layout("ScienceQA_TEST.tsv", "A", "l2-category"),
        Layout(
            name="lmms-lab's parquet",
            files=("ScienceQA-IMG/test-*.parquet",),
            fields=_FIELDS,
            records=parquet_records,
            row=_lmms_row,
        ),
        Layout(
            name="official JSON",
            files=("problems.json",),
            fields=(*_FIELDS, "split"),
            records=json_records(),
            row=_official_row,
            index="id",
        ),
    ),
    dataset="ScienceQA_TEST",
    prompt=ask_choice,
    references=letter,
    fields=options,
    candidates=option_texts,
    rules=(choice_rule("vlmevalkit", "vlmevalkit"), choice_rule("llava", "llava")),
    breakdown=("l2-category",),
)
