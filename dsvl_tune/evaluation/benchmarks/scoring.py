"""The figures of a benchmark's answers, each under the rule that it was scored by."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.benchmarks.base import Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.tsv import TsvRow
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.evaluation.metrics.choice import Choice, row_options
from dsvl_tune.evaluation.metrics.choice_readers import CHOICE_READERS
from dsvl_tune.evaluation.scoring import score_tables, set_figures
from dsvl_tune.evaluation.statistics import intervals

ROTATION = 1_000_000
"""MMBench: the index of a question's n-th rotation is its own plus n times this."""


class Hits(Metric):
    """Share of questions that are right in all their rotations (0..1).

    Args:
        name: of the metric whose scores of single rows they are.
    """

    percent = True

    def __init__(self, name: str) -> None:
        self.name = name

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """The answers hold their scores as text."""
        return float(prediction)


def benchmark_answer(benchmark: Benchmark, row: TsvRow, text: str) -> Answer:
    """An answer to a row of a benchmark, to be scored."""
    return Answer(
        source=row.source,
        question_type="",
        question=row.cells.get("question", ""),
        references=benchmark.references(row),
        text=text,
        fields=benchmark.fields(row),
    )


def score_benchmark(
    benchmark: Benchmark, rows: Sequence[TsvRow], texts: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What is reported of a benchmark.

    Args:
        benchmark: the benchmark.
        rows: its rows.
        texts: the answer to each row by its index.

    Returns:
        For each rule its name, the number of questions, figures, 95 % intervals, and the main
        figure of every value of each column of the breakdown.
    """
    answers = [benchmark_answer(benchmark, row, texts[row.index]) for row in rows]
    return [_by_rule(benchmark, rule, rows, answers) for rule in benchmark.rules]


def _by_rule(
    benchmark: Benchmark, rule: Rule, rows: Sequence[TsvRow], answers: Sequence[Answer]
) -> dict[str, Any]:
    """The report of one rule."""
    (single,) = score_tables(answers, [rule.metric])
    figures = {name: set_figures([single])[name] for name in rule.figures}
    main = rule.figures[0]
    scores = list(single.scores)
    questions = list(rows)
    if rule.circular:
        figures["every_row_alone"] = figures[main]
        questions, scores = _circular(rows, scores)
        answers = _as_answers(scores)
        metric: Metric = Hits(main)
        (single,) = score_tables(answers, [metric])
        figures[main] = set_figures([single])[main]
    else:
        metric = rule.metric
        if isinstance(metric, Choice):
            figures[f"{metric.name}_with_guesses"] = _with_guesses(metric, answers, scores)
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for column in benchmark.breakdown:
        for number, row in enumerate(questions):
            for value in row.cells.get(column, "").split(benchmark.separator):
                groups[column][value].append(number)
    return {
        "rule": rule.name,
        "questions": len(questions),
        "figures": figures,
        "interval": list(intervals([single])[main]),
        "breakdown": {
            column: {
                value: set_figures(score_tables([answers[n] for n in numbers], [metric]))
                for value, numbers in sorted(of_column.items())
            }
            for column, of_column in groups.items()
        },
    }


def _circular(rows: Sequence[TsvRow], scores: Sequence[float]) -> tuple[list[TsvRow], list[float]]:
    """The first row of each question, and 1 where all its rows are right."""
    found: dict[int, tuple[TsvRow, float]] = {}
    for row, score in zip(rows, scores, strict=True):
        key = int(row.index) % ROTATION
        first, hit = found.get(key, (row, 1.0))
        found[key] = (first if int(first.index) <= int(row.index) else row, min(hit, score))
    return [row for row, _ in found.values()], [hit for _, hit in found.values()]


def _as_answers(scores: Sequence[float]) -> list[Answer]:
    """Answers that hold their scores as text, for `Hits`."""
    empty = Answer(source="", question_type="", question="", references=("1",), text="")
    return [replace(empty, text=str(score)) for score in scores]


def _with_guesses(metric: Choice, answers: Sequence[Answer], scores: Sequence[float]) -> float:
    """Accuracy if every unread answer were a seeded random letter instead of wrong."""
    generator = random.Random(0)
    total = 0.0
    for answer, score in zip(answers, scores, strict=True):
        options = row_options(answer.fields)
        is_choice = bool(answer.fields.get("options"))
        if is_choice and CHOICE_READERS[metric.reader](answer.text, options) is None:
            guess = generator.choice(sorted(options))
            score = metric.score_answer(replace(answer, text=guess))
        total += score
    return total / len(answers)
