"""AI2D (arXiv 1603.07396), test split."""

from __future__ import annotations

from dsvl_tune.evaluation.benchmarks.base import Benchmark
from dsvl_tune.evaluation.benchmarks.choice_sets import choice_rule, letter, option_texts, options
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout
from dsvl_tune.evaluation.benchmarks.layouts.files import parquet_records
from dsvl_tune.evaluation.benchmarks.layouts.tsv import tsv_layout
from dsvl_tune.evaluation.benchmarks.prompts import ask_choice
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow


def _lmms_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of lmms-lab/ai2d, whose answer is the number of an option."""
    choices = record.options("options")
    cells = {
        "question": record.text("question"),
        **choices,
        "answer": record.letter("answer", choices),
    }
    return record.row(record.number, record.images("image"), cells)


AI2D = Benchmark(
    name="ai2d",
    layouts=(
        tsv_layout("AI2D_TEST.tsv", "A", "category"),
        Layout(
            name="lmms-lab's parquet",
            files=("test-*.parquet", "data/test-*.parquet"),
            fields=("question", "options", "answer", "image"),
            records=parquet_records,
            row=_lmms_row,
        ),
    ),
    dataset="AI2D_TEST",
    prompt=ask_choice,
    references=letter,
    fields=options,
    candidates=option_texts,
    rules=(choice_rule("vlmevalkit", "vlmevalkit"),),
    breakdown=("category",),
)
