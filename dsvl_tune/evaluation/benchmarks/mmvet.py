"""MM-Vet (arXiv 2308.02490): GPT-4 grades the answers, so there is a submission and no figure."""

from __future__ import annotations

from dsvl_tune.evaluation.benchmarks.base import Answered, Benchmark
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout
from dsvl_tune.evaluation.benchmarks.layouts.files import KEY, json_records, parquet_records
from dsvl_tune.evaluation.benchmarks.layouts.tsv import tsv_layout
from dsvl_tune.evaluation.benchmarks.prompts import ask_plainly
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow

PREFIX = "v1_"
"""Of the ids in the official files; VLMEvalKit's index is the number after it."""


def _official_row(record: FileRecord) -> BenchmarkRow:
    """The row of an entry of mm-vet.json."""
    cells = {
        "question": record.text("question"),
        "answer": record.text("answer"),
        "category": ",".join(record.texts("capability")),
    }
    images = record.images("imagename", folders=("images",))
    return record.row(record.text(KEY).removeprefix(PREFIX), images, cells)


def _lmms_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of lmms-lab/MMVet."""
    cells = {
        "question": record.text("question"),
        "answer": record.text("answer"),
        "category": record.text("capability"),
    }
    index = record.text("question_id").removeprefix(PREFIX)
    return record.row(index, record.images("image"), cells)


def _submission(answered: Answered) -> dict[str, str]:
    """The file that the authors' grader takes."""
    return {f"{PREFIX}{row.index}": text for row, text in answered}


MMVET = Benchmark(
    name="mmvet",
    layouts=(
        tsv_layout("MMVet.tsv"),
        Layout(
            name="lmms-lab's parquet",
            files=("test-*.parquet", "data/test-*.parquet"),
            fields=("question_id", "question", "answer", "image", "capability"),
            records=parquet_records,
            row=_lmms_row,
            index="question_id",
        ),
        Layout(
            name="official JSON",
            files=("mm-vet.json",),
            fields=("imagename", "question", "answer", "capability"),
            records=json_records(),
            row=_official_row,
            index="id",
        ),
    ),
    dataset="MMVet",
    prompt=ask_plainly,
    references=lambda row: (row.text("answer"),),
    rules=(),
    submission=_submission,
    paper=(34.8, 41.5),
    note=(
        "no figure: the answers are graded by a judge model; give it the submission file, and its "
        "grades to --grades"
    ),
)
