"""MMBench (arXiv 2307.06281), English and Chinese, dev split: circular evaluation."""

from __future__ import annotations

from string import ascii_uppercase

from dsvl_tune.evaluation.benchmarks.base import Benchmark
from dsvl_tune.evaluation.benchmarks.choice_sets import choice_rule, letter, option_texts, options
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout
from dsvl_tune.evaluation.benchmarks.layouts.files import parquet_records
from dsvl_tune.evaluation.benchmarks.layouts.tsv import tsv_images, tsv_layout, tsv_row
from dsvl_tune.evaluation.benchmarks.prompts import ask_choice
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow

_RULES = (choice_rule("vlmevalkit", "vlmevalkit", circular=True),)
_NOTE = (
    "a question is right only if all its rotations are; without a judge unread answers are wrong"
)


def _index(record: FileRecord) -> str:
    """The index, a number: rotations of a question are found by it."""
    index = record.text("index")
    if not index.isdecimal():
        raise record.fail("index", "a number")
    return index


def _tsv_row(record: FileRecord) -> BenchmarkRow:
    """The row of a TSV record."""
    return record.row(_index(record), tsv_images(record), tsv_row(record).cells)


def _lmms_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of lmms-lab/MMBench."""
    names = ("question", "hint", "answer", "category", "source", "comment", "split")
    letters = [name for name in record.fields if name in ascii_uppercase]
    cells = {name: record.optional(name) for name in (*names, *letters)}
    cells["l2-category"] = record.optional("L2-category")
    return record.row(_index(record), record.images("image"), cells)


def _layouts(tsv: str, config: str) -> tuple[Layout, ...]:
    """The layouts of either language.

    Args:
        tsv: name of the official file, which VLMEvalKit reads.
        config: of lmms-lab/MMBench.
    """
    parquet = Layout(
        name="lmms-lab's parquet",
        files=(f"{config}/dev-*.parquet",),
        fields=("index", "question", "A", "B", "image", "L2-category", "category"),
        records=parquet_records,
        row=_lmms_row,
    )
    return tsv_layout(tsv, "A", "B", "l2-category", "category", row=_tsv_row), parquet


MMBENCH = Benchmark(
    name="mmbench",
    layouts=_layouts("MMBench_DEV_EN.tsv", "en"),
    dataset="MMBench_DEV_EN",
    prompt=ask_choice,
    references=letter,
    fields=options,
    candidates=option_texts,
    rules=_RULES,
    breakdown=("l2-category", "category"),
    paper=(64.6, 73.2),
    note=_NOTE,
)
MMBENCH_CN = Benchmark(
    name="mmbench_cn",
    layouts=_layouts("MMBench_DEV_CN.tsv", "cn"),
    dataset="MMBench_DEV_CN",
    prompt=ask_choice,
    references=letter,
    fields=options,
    candidates=option_texts,
    rules=_RULES,
    breakdown=("l2-category", "category"),
    paper=(61.3, 72.8),
    note=_NOTE,
)
