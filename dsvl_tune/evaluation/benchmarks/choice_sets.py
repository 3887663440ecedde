"""What multiple-choice benchmarks have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsvl_tune.evaluation.benchmarks.base import Rule
from dsvl_tune.evaluation.benchmarks.tsv import TsvRow
from dsvl_tune.evaluation.metrics.choice import Choice

FIGURES = ("choice", "choice_unread")


def letter(row: TsvRow) -> tuple[str, ...]:
    """The right letter."""
    return (row.text("answer"),)


def options(row: TsvRow) -> Mapping[str, Any]:
    """The options, for readers that find one by its text."""
    return {"options": row.options}


def choice_rule(name: str, reader: str, *, circular: bool = False) -> Rule:
    """Accuracy with the letters read by a reader, unread answers being wrong."""
    return Rule(name=name, metric=Choice(reader), figures=FIGURES, circular=circular)
