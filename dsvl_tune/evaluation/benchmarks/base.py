"""What a benchmark is: how its rows are asked, what is right, and what is reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from dsvl_tune.core.types import ImageRef
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.benchmarks.layouts.base import Layout
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.metrics import Metric

LIKELIHOOD = "likelihood"
"""The rule of answers that were chosen by likelihood; it compares with no generated ones."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A way to score the answers. A figure is reported with the name of its rule.

    Attributes:
        name: whose rule it is: official, vlmevalkit, ...
        metric: applies it.
        figures: names of the figures that are reported.
        circular: whether a question counts as right only if all its rotations are (MMBench).
        repeated: whether a row counts once in each of its groups (POPE in VLMEvalKit).
        guess: a random answer in place of one that the rule cannot read, as the official code of
            some benchmarks makes it; None for an answer that is read. Without it no figure with
            guesses is reported.
    """

    name: str
    metric: Metric
    figures: tuple[str, ...]
    circular: bool = False
    repeated: bool = False
    guess: Callable[[Answer, Random], str | None] | None = None


Answered = Sequence[tuple[BenchmarkRow, str]]
"""Rows with the text of their answers."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark: its files, how its rows are asked, and how answers are scored.

    Attributes:
        name: on the command line.
        layouts: that it is published in; of several in a folder the first is read.
        dataset: what VLMEvalKit calls it, for the file of results.
        prompt: text of the question, as VLMEvalKit asks it; the images come first.
        references: the accepted answers of a row that has them.
        rules: how it is scored; () where a judge model is needed.
        breakdown: columns whose values get figures of their own.
        separator: between several values in one cell of such a column.
        fields: what else of a row its metric reads.
        candidates: answers to choose from by likelihood, by what choosing one answers (the letter
            of an option); {} for a row without any, None where no row has them.
        submission: content of the official submission file; None if there is no such file.
        submission_lines: whether that file has one JSON value a line.
        paper: figures of DeepSeek-VL 1.3B and 7B chat (arXiv 2403.05525, tables 5 and 6); None
            where it has none.
        note: what a reader must know of the figures.
    """

    name: str
    layouts: tuple[Layout, ...]
    dataset: str
    prompt: Callable[[BenchmarkRow], str]
    references: Callable[[BenchmarkRow], tuple[str, ...]]
    rules: tuple[Rule, ...]
    breakdown: tuple[str, ...] = ()
    separator: str = "\0"
    fields: Callable[[BenchmarkRow], Mapping[str, Any]] = lambda row: {}
    candidates: Callable[[BenchmarkRow], Mapping[str, str]] | None = None
    submission: Callable[[Answered], Any] | None = None
    submission_lines: bool = False
    paper: tuple[float, float] | None = None
    note: str = ""

    def accepted(self, row: BenchmarkRow) -> tuple[str, ...]:
        """The accepted answers of a row; () where they are hidden."""
        return self.references(row) if row.is_labelled else ()

    def parts(self, row: BenchmarkRow) -> tuple[str | ImageRef, ...]:
        """The user's message of a row."""
        return (*row.images, self.prompt(row))
