"""MathVista (arXiv 2310.02255), testmini: what can be scored without a judge model."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.evaluation.benchmarks.base import Answered, Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout
from dsvl_tune.evaluation.benchmarks.layouts.files import json_records, parquet_records
from dsvl_tune.evaluation.benchmarks.layouts.tsv import tsv_layout
from dsvl_tune.evaluation.benchmarks.prompts import ask_plainly
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.metrics.mathvista import CHOICE, MathVista

KINDS = {
    "question_type": (CHOICE, "free_form"),
    "answer_type": ("text", "integer", "float", "list"),
}
_FIELDS = ("pid", "query", "question_type", "answer_type", "metadata")


def _cells(record: FileRecord) -> dict[str, str]:
    """The cells of a record, which the JSON and the parquet file name alike."""
    metadata = record.fields["metadata"]
    if not isinstance(metadata, Mapping):
        raise record.fail("metadata", "an object")
    choices = record.texts("choices")
    named = {name: metadata[name] for name in ("task", "category") if metadata.get(name)}
    return {
        "question": record.text("query"),
        "answer": record.optional("answer"),
        "question_type": record.text("question_type"),
        "answer_type": record.text("answer_type"),
        "choices": repr(list(choices)) if choices else "",
        "precision": record.optional("precision"),
        "unit": record.optional("unit"),
        **{name: str(value) for name, value in named.items()},
    }


def _json_row(record: FileRecord) -> BenchmarkRow:
    """The row of an entry of testmini.json."""
    return record.row(record.text("pid"), record.images("image"), _cells(record))


def _parquet_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of AI4Math/MathVista."""
    return record.row(record.text("pid"), record.images("decoded_image"), _cells(record))


def _expected(row: BenchmarkRow) -> Mapping[str, Any]:
    """What kind of answer a row expects.

    Raises:
        UserError: a cell that says so is of no kind that there is.
    """
    for column, known in KINDS.items():
        if row.text(column) not in known:
            raise _fail(row, column, f"one of {', '.join(known)}")
    if row.text("question_type") == CHOICE and not row.cells.get("choices"):
        raise UserError(f"{row.source}: choices is empty. Expected those of a {CHOICE} question.")
    try:
        float(row.cells.get("precision", "0"))
    except ValueError:
        raise _fail(row, "precision", "a number") from None
    return {
        "question_type": row.text("question_type"),
        "answer_type": row.text("answer_type"),
        "choices": list(row.texts("choices")) if "choices" in row.cells else [],
        "precision": row.cells.get("precision", "0"),
    }


def _fail(row: BenchmarkRow, column: str, expected: str) -> UserError:
    """An error of a cell."""
    found = row.text(column)[:80]
    return UserError(f"{row.source}: field {column!r} is {found!r}. Expected {expected}.")


def _candidates(row: BenchmarkRow) -> Mapping[str, str]:
    """The options of a choice, by an answer whose letter the official quick path reads."""
    choices = _expected(row)["choices"] if row.text("question_type") == CHOICE else []
    pairs = zip(ascii_uppercase, choices, strict=False)
    return {f'The answer is "({letter})".': text for letter, text in pairs}


def _submission(answered: Answered) -> dict[str, dict[str, Any]]:
    """The file that evaluation/extract_answer.py of lupantech/MathVista reads."""
    found = {}
    for row, text in answered:
        expected = _expected(row)
        found[row.index] = {
            "pid": row.index,
            "query": row.text("question"),
            "question_type": expected["question_type"],
            "answer_type": expected["answer_type"],
            "choices": expected["choices"] or None,
            "unit": row.cells.get("unit"),
            "precision": int(float(row.cells["precision"])) if "precision" in row.cells else None,
            "answer": row.cells.get("answer", ""),
            "response": text,
        }
    return found


MATHVISTA = Benchmark(
    name="mathvista",
    layouts=(
        tsv_layout("MathVista_MINI.tsv", "question_type", "answer_type", "task"),
        Layout(
            name="official parquet",
            files=("testmini-*.parquet", "data/testmini-*.parquet"),
            fields=(*_FIELDS, "decoded_image"),
            records=parquet_records,
            row=_parquet_row,
            index="pid",
        ),
        Layout(
            name="official JSON",
            files=("testmini.json",),
            fields=(*_FIELDS, "image"),
            records=json_records(),
            row=_json_row,
            index="pid",
        ),
    ),
    dataset="MathVista_MINI",
    prompt=ask_plainly,
    references=lambda row: (row.text("answer"),),
    fields=_expected,
    candidates=_candidates,
    rules=(
        Rule(
            name="official, quick path",
            metric=MathVista(),
            figures=("mathvista", "mathvista_unread"),
        ),
    ),
    breakdown=("question_type", "answer_type", "task"),
    submission=_submission,
    paper=(31.1, 36.1),
    note="a lower bound: a judge model read the paper's answers; unread ones are wrong here",
)
