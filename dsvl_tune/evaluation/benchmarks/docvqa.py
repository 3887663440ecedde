"""DocVQA (arXiv 2007.00398) and InfographicVQA (arXiv 2104.12756), validation splits.

The official files (rrc.cvc.uab.es, challenge 17) name the image by `image` in DocVQA, with its
folder `documents/`, and by `image_local_name` in InfographicVQA, whose files are in `images/`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dsvl_tune.evaluation.benchmarks.base import Answered, Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout
from dsvl_tune.evaluation.benchmarks.layouts.files import json_records, parquet_records
from dsvl_tune.evaluation.benchmarks.layouts.tsv import tsv_layout
from dsvl_tune.evaluation.benchmarks.prompts import ask_short
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.metrics.anls import ANLS

_RULES = (Rule(name="official", metric=ANLS(), figures=("anls",)),)
_FOLDERS = (".", "images")


def _row(image: str) -> Callable[[FileRecord], BenchmarkRow]:
    """The row of a record; its answers are missing in the test split.

    Args:
        image: the field with the image or its file name.
    """

    def row(record: FileRecord) -> BenchmarkRow:
        answers = record.texts("answers")
        cells = {
            "question": record.text("question"),
            "questionId": record.text("questionId"),
            "answer": repr(list(answers)) if answers else "",
        }
        images = record.images(image, folders=_FOLDERS)
        return record.row(record.text("questionId"), images, cells)

    return row


def _layouts(tsv: str, json: str, config: str) -> tuple[Layout, ...]:
    """The layouts of either benchmark.

    Args:
        tsv: name of VLMEvalKit's file.
        json: pattern of the official file.
        config: of lmms-lab/DocVQA.
    """
    official = [
        Layout(
            name="official JSON",
            files=(json,),
            fields=("questionId", "question", image),
            records=json_records("data"),
            row=_row(image),
            index="questionId",
        )
        for image in ("image", "image_local_name")
    ]
    parquet = Layout(
        name="lmms-lab's parquet",
        files=(f"{config}/validation-*.parquet",),
        fields=("questionId", "question", "image"),
        records=parquet_records,
        row=_row("image"),
        index="questionId",
    )
    return tsv_layout(tsv), parquet, *official


def _submission(answered: Answered) -> list[dict[str, Any]]:
    """The file that the challenges' server takes."""
    return [
        {"questionId": int(row.cells.get("questionId", row.index)), "answer": text}
        for row, text in answered
    ]


DOCVQA = Benchmark(
    name="docvqa",
    layouts=_layouts("DocVQA_VAL.tsv", "val_v1*.json", "DocVQA"),
    dataset="DocVQA_VAL",
    prompt=ask_short,
    references=lambda row: row.texts("answer"),
    rules=_RULES,
    submission=_submission,
)
INFOVQA = Benchmark(
    name="infovqa",
    layouts=_layouts("InfoVQA_VAL.tsv", "infographicsVQA_val_v1*.json", "InfographicVQA"),
    dataset="InfoVQA_VAL",
    prompt=ask_short,
    references=lambda row: row.texts("answer"),
    rules=_RULES,
    submission=_submission,
)
