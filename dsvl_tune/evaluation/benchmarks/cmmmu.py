"""CMMMU (arXiv 2401.11944), validation split: Chinese; choices, statements and blanks.

Columns of the TSV and the prompt: open-compass/VLMEvalKit, `vlmeval/dataset/cmmmu.py` (23757c4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from dsvl_tune.core.types import ImageRef
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.benchmarks.base import Answered, Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.layouts.base import FileRecord, Layout
from dsvl_tune.evaluation.benchmarks.layouts.files import json_line_records, parquet_records
from dsvl_tune.evaluation.benchmarks.layouts.tsv import tsv_layout
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.metrics.cmmmu import BLANK, CHOICE, STATEMENT, read_closed
from dsvl_tune.evaluation.metrics.cmmmu import CMMMU as Official

INSTRUCTIONS = {
    CHOICE: (
        "请回答上述多项选择题，并选出正确选项。这些题目可能包括单选和多选题型。"
        "如果所提供的信息不足以确定一个明确的答案，"
        "那么请根据可用的数据和你的判断来选择最可能正确的选项。"
    ),
    STATEMENT: (
        "请回答上述判断题，并根据题目描述和所给的信息来判断问题中陈述的对错。"
        "如果信息不完整或不足以作出绝对判断，请运用你的逻辑推理和现有信息来做出最可能的判断。"
    ),
    BLANK: (
        "请回答上述填空题，并根据题目的要求和所提供的信息来给出最恰当的答案。"
        "如果信息不足以确切回答，那么请依据现有的数据和你的推理能力来填写最合理的答案。"
    ),
}
"""What VLMEvalKit's questions end with, by type."""
OPTIONS = ("option1", "option2", "option3", "option4")
MOST_IMAGES = 5
_FIELDS = ("id", "type", "question", *OPTIONS[:2], "answer", "category")


def _prompt(row: BenchmarkRow) -> str:
    """The question as VLMEvalKit asks it; the images come first."""
    question, instruction = row.text("question"), INSTRUCTIONS[row.text("type")]
    if row.text("type") != CHOICE:
        return f"{question}\n{instruction}"
    options = "".join(f"{letter}. {text}\n" for letter, text in _options(row).items())
    return f"问题: {question}\nOptions:\n{options}{instruction}"


def _options(row: BenchmarkRow) -> dict[str, str]:
    """The options by letter."""
    pairs = zip("ABCD", OPTIONS, strict=True)
    return {letter: row.cells[name] for letter, name in pairs if name in row.cells}


def _candidates(row: BenchmarkRow) -> Mapping[str, str]:
    """The options of a choice by letter, letters where one is an image; true and false."""
    if row.text("type") == STATEMENT:
        return {"对": "对", "错": "错"}
    options = _options(row) if row.text("type") == CHOICE else {}
    has_images = any(re.search(r"<图片 \d|<img=", text) for text in options.values())
    return {letter: letter for letter in options} if has_images else options


def _fields(row: BenchmarkRow) -> Mapping[str, Any]:
    """What the official rule reads."""
    return {"type": row.text("type"), "options": _options(row)}


def _row(record: FileRecord, names: Sequence[str], images: tuple[ImageRef, ...]) -> BenchmarkRow:
    """The row of a record.

    Args:
        record: in either of the official layouts.
        names: file names of its images, which texts refer to; these become <图片 1>, ...
        images: the images, as many.
    """
    numbers = {name: f"<图片 {number}>" for number, name in enumerate(names, 1)}

    def numbered(text: str) -> str:
        return re.sub('<img="([^"]*)">', lambda tag: numbers.get(tag[1], tag[0]), text)

    kept = ("type", "answer", "category", "subcategory", "difficulty_level")
    cells = {name: record.optional(name) for name in kept}
    cells |= {name: numbered(record.optional(name)) for name in ("question", *OPTIONS)}
    if cells["type"] not in INSTRUCTIONS:
        raise record.fail("type", " or ".join(INSTRUCTIONS))
    return record.row(record.text("id"), images, cells)


def _json_row(record: FileRecord) -> BenchmarkRow:
    """The row of a line of DISCIPLINE/DISCIPLINE.jsonl."""
    return _row(record, record.texts("img_list"), record.images("img_list"))


def _parquet_row(record: FileRecord) -> BenchmarkRow:
    """The row of a record of m-a-p/CMMMU."""
    shown = [
        f"image_{number}"
        for number in range(1, MOST_IMAGES + 1)
        if record.fields.get(f"image_{number}") is not None
    ]
    names = [record.optional(f"{name}_filename") for name in shown]
    return _row(record, names, record.images(*(shown or ["image_1"])))


def _guess(answer: Answer, generator: Random) -> str | None:
    """What the official code draws: a letter, or true or false."""
    if answer.fields["type"] == BLANK or read_closed(answer.text, answer.fields) is not None:
        return None
    letters = "".join(answer.fields["options"])
    return generator.choice(letters if answer.fields["type"] == CHOICE else "对错")


def _submission(answered: Answered) -> list[dict[str, Any]]:
    """The lines that the authors' server takes."""
    return [
        {
            "id": int(row.index) if row.index.isdecimal() else row.index,
            "type": row.text("type"),
            "response": text,
        }
        for row, text in answered
    ]


CMMMU = Benchmark(
    name="cmmmu",
    layouts=(
        tsv_layout("CMMMU_VAL.tsv", "type", *OPTIONS, "category"),
        Layout(
            name="official parquet",
            files=("*/val-*.parquet", "val-*.parquet"),
            fields=(*_FIELDS, "image_1", "image_1_filename"),
            records=parquet_records,
            row=_parquet_row,
            index="id",
        ),
        Layout(
            name="official JSON lines",
            files=("*/*.jsonl",),
            fields=("id", "type", "question", "img_list", "category"),
            records=json_line_records,
            row=_json_row,
            index="id",
        ),
    ),
    dataset="CMMMU_VAL",
    prompt=_prompt,
    references=lambda row: (row.text("answer"),),
    fields=_fields,
    candidates=_candidates,
    rules=(
        Rule(
            name="official",
            metric=Official(),
            figures=("cmmmu", "cmmmu_unread"),
            guess=_guess,
        ),
    ),
    breakdown=("type", "category"),
    submission=_submission,
    submission_lines=True,
    paper=(27.4, 37.9),
)
