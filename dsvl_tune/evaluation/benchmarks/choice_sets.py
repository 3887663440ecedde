"""What multiple-choice benchmarks have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.benchmarks.base import Rule
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.metrics.choice import Choice, row_options
from dsvl_tune.evaluation.metrics.choice_readers import CHOICE_READERS

FIGURES = ("choice", "choice_unread")


def letter(row: BenchmarkRow) -> tuple[str, ...]:
    """The right letter."""
    return (row.text("answer"),)


def options(row: BenchmarkRow) -> Mapping[str, Any]:
    """The options, for readers that find one by its text."""
    return {"options": row.options}


def option_texts(row: BenchmarkRow) -> Mapping[str, str]:
    """The texts of the options by letter; the letters where an option is an image."""
    has_images = any(re.search(r"<image \d>", text) for text in row.options.values())
    return {letter: letter for letter in row.options} if has_images else row.options


def guess_letter(reader: str) -> Callable[[Answer, Random], str | None]:
    """A random option in place of an answer to a choice that a reader cannot read."""

    def guess(answer: Answer, generator: Random) -> str | None:
        letters = row_options(answer.fields)
        if not answer.fields.get("options") or CHOICE_READERS[reader](answer.text, letters):
            return None
        return generator.choice(sorted(letters))

    return guess


def choice_rule(name: str, reader: str, *, circular: bool = False) -> Rule:
    """Accuracy with the letters read by a reader, unread answers being wrong."""
    return Rule(
        name=name,
        metric=Choice(reader),
        figures=FIGURES,
        circular=circular,
        guess=None if circular else guess_letter(reader),
    )
