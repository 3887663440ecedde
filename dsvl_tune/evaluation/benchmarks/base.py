"""What a benchmark is: how its rows are asked, what is right, and what is reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dsvl_tune.core.types import ImageRef
from dsvl_tune.evaluation.benchmarks.tsv import TsvRow
from dsvl_tune.evaluation.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A way to score the answers. A figure is reported with the name of its rule.

    Attributes:
        name: whose rule it is: official, vlmevalkit, ...
        metric: applies it.
        figures: names of the figures that are reported.
        circular: whether a question counts as right only if all its rotations are (MMBench).
    """

    name: str
    metric: Metric
    figures: tuple[str, ...]
    circular: bool = False


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark that is read from VLMEvalKit's TSV file.

    Attributes:
        name: on the command line.
        file: name of its TSV file.
        prompt: text of the question, as VLMEvalKit asks it; the images come first.
        references: the accepted answers of a row.
        rules: how it is scored; () where a judge model is needed.
        breakdown: columns whose values get figures of their own.
        separator: between several values in one cell of such a column.
        fields: what else of a row its metric reads.
        submission: content of the official submission file, from the answer of each row by
            `index`; None if there is no such file.
        paper: figures of DeepSeek-VL 1.3B and 7B chat (arXiv 2403.05525, tables 5 and 6); None
            where it has none.
        note: what a reader must know of the figures.
    """

    name: str
    file: str
    prompt: Callable[[TsvRow], str]
    references: Callable[[TsvRow], tuple[str, ...]]
    rules: tuple[Rule, ...]
    breakdown: tuple[str, ...] = ()
    separator: str = "\0"
    fields: Callable[[TsvRow], Mapping[str, Any]] = lambda row: {}
    submission: Callable[[Mapping[str, str]], Any] | None = None
    paper: tuple[float, float] | None = None
    note: str = ""

    def parts(self, row: TsvRow) -> tuple[str | ImageRef, ...]:
        """The user's message of a row."""
        return (*row.images, self.prompt(row))
