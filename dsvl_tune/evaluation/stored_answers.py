"""Answers that were stored in a file, read to be scored again without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.terminal import shorten
from dsvl_tune.data.readers.parse import parse_json
from dsvl_tune.evaluation.answers import Answer

ANSWER_KEYS = ("answer", "prediction")
REFERENCE_KEYS = ("references", "reference")


@dataclass(frozen=True)
class StoredAnswer:
    """A line of a file of answers.

    Attributes:
        row: the line as it is.
        answer: what it says, to be scored.
    """

    row: Mapping[str, Any]
    answer: Answer


def read_answers(path: Path) -> list[StoredAnswer]:
    """Read a file of answers: JSON lines with an answer and its references.

    A line has the answer under `answer` or `prediction` and the accepted answers under
    `references` or `reference`, a list or one text; null or [] for a question without one. Its
    other fields (`question_type`, `options`, ...) are there for metrics.

    Args:
        path: the file.

    Raises:
        UserError: there is no such file, it has no line, or a line is not one of answers.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(
            f"{path}: could not be read ({error.strerror}). Expected a file of answers."
        ) from error
    answers = [
        _read_line(line, f"{path}:{number}", number)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not answers:
        raise UserError(f"{path}: no line. Expected JSON lines with answer and references.")
    return answers


def _read_line(line: bytes, source: str, number: int) -> StoredAnswer:
    """One line as an answer.

    Raises:
        UserError: it is not one.
    """
    row = parse_json(line.removeprefix(b"\xef\xbb\xbf"), source)
    if not isinstance(row, dict):
        raise UserError(f"{source}: not a JSON object. Expected one with answer and references.")
    text = _the_one(row, ANSWER_KEYS, source)
    if not isinstance(text, str):
        raise UserError(f"{source}: answer: {_json(text)}, expected a text.")
    answer = Answer(
        source=source,
        question_type=_text(row, "question_type", source),
        question=_text(row, "question", source),
        references=_references(_the_one(row, REFERENCE_KEYS, source), source),
        text=text,
        number=number,
        fields=row,
    )
    return StoredAnswer(row, answer)


def _the_one(row: Mapping[str, Any], keys: tuple[str, str], source: str) -> Any:
    """The value that a row has under one of two keys.

    Raises:
        UserError: it has neither, or two that differ.
    """
    given = [key for key in keys if key in row]
    if not given:
        raise UserError(f"{source}: no field {keys[0]!r} (or {keys[1]!r}). Expected one of them.")
    if len(given) == 2 and row[keys[0]] != row[keys[1]]:
        raise UserError(
            f"{source}: {keys[0]!r} and {keys[1]!r} differ. Keep the one that is meant."
        )
    return row[given[0]]


def _references(value: Any, source: str) -> tuple[str, ...]:
    """The accepted answers of a row.

    Raises:
        UserError: they are no texts.
    """
    texts = [value] if isinstance(value, str) else ([] if value is None else value)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(
            f"{source}: references: {_json(value)}, expected a list of texts or one text."
        )
    return tuple(texts)


def _text(row: Mapping[str, Any], key: str, source: str) -> str:
    """An optional text of a row, "" without one.

    Raises:
        UserError: it is no text.
    """
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{source}: {key}: {_json(value)}, expected a text.")
    return value


def _json(value: Any) -> str:
    """A value as its line has it, for errors."""
    return shorten(json.dumps(value), 80)
