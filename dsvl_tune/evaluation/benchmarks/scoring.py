"""The figures of a benchmark's answers, each under the rule that it was scored by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.benchmarks.base import Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.evaluation.scoring import score_tables, set_figures
from dsvl_tune.evaluation.statistics import changes, intervals

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


class Questions(NamedTuple):
    """What a rule counts.

    Attributes:
        rows: one a question.
        answers: to score.
        metric: scores them.
    """

    rows: Sequence[BenchmarkRow]
    answers: Sequence[Answer]
    metric: Metric


def benchmark_answer(benchmark: Benchmark, row: BenchmarkRow, text: str) -> Answer:
    """An answer to a row of a benchmark, to be scored."""
    return Answer(
        source=row.source,
        question_type="",
        question=row.cells.get("question", ""),
        references=benchmark.accepted(row),
        text=text,
        fields=benchmark.fields(row),
    )


def check_rows(benchmark: Benchmark, rows: Sequence[BenchmarkRow]) -> None:
    """Check that every row can be asked and scored, before a model is.

    Args:
        benchmark: the benchmark.
        rows: its rows.

    Raises:
        UserError: a row lacks what its prompt needs, or a rule cannot read its reference.
    """
    for row in rows:
        benchmark.parts(row)
    answers = [benchmark_answer(benchmark, row, "") for row in rows]
    for rule in benchmark.rules:
        score_tables(answers, [rule.metric])


def score_benchmark(
    benchmark: Benchmark,
    rows: Sequence[BenchmarkRow],
    texts: Mapping[str, str],
    rules: Sequence[Rule] | None = None,
) -> list[dict[str, Any]]:
    """What is reported of a benchmark.

    Args:
        benchmark: the benchmark.
        rows: its rows.
        texts: the answer to each row by its index.
        rules: None takes the benchmark's.

    Returns:
        For each rule its name, the number of questions, figures, the 95 % interval of the first,
        and the figures of every value of each column of the breakdown; [] for rows without answers.
    """
    answers = [benchmark_answer(benchmark, row, texts[row.index]) for row in rows]
    if not answers[0].references:
        return []
    chosen = benchmark.rules if rules is None else rules
    return [_by_rule(benchmark, rule, rows, answers) for rule in chosen]


def main_changes(
    benchmark: Benchmark,
    rows: Sequence[BenchmarkRow],
    before: Mapping[str, str],
    after: Mapping[str, str],
    rules: Sequence[Rule],
) -> list[dict[str, float]]:
    """How other answers to the same rows change the main figure of each rule.

    Args:
        benchmark: the benchmark.
        rows: its rows.
        before: the answer to each row by its index.
        after: the other answers.
        rules: to score by.

    Returns:
        Of each rule the difference and its paired 95 % interval; [] for rows without answers.
    """
    if not rows[0].is_labelled:
        return []
    given = [
        [benchmark_answer(benchmark, row, texts[row.index]) for row in rows]
        for texts in (before, after)
    ]
    found = []
    for rule in rules:
        scored = [_questions(benchmark, rule, rows, answers) for answers in given]
        tables = [score_tables(one.answers, [one.metric]) for one in scored]
        found.append(changes(*tables)[rule.figures[0]]._asdict())
    return found


def _by_rule(
    benchmark: Benchmark, rule: Rule, rows: Sequence[BenchmarkRow], answers: Sequence[Answer]
) -> dict[str, Any]:
    """The report of one rule."""
    main = rule.figures[0]
    questions = _questions(benchmark, rule, rows, answers)
    (table,) = score_tables(questions.answers, [questions.metric])
    alone = _single_rows(rule, answers)
    measured = alone | set_figures([table])
    figures = {name: measured[name] for name in rule.figures}
    if rule.circular:
        figures["every_row_alone"] = alone[main]
    if rule.guess is not None:
        figures[f"{main}_with_guesses"] = _with_guesses(rule, answers)
    return {
        "rule": rule.name,
        "questions": len(questions.rows),
        "figures": figures,
        "interval": list(intervals([table])[main]),
        "breakdown": _breakdown(benchmark, questions),
    }


def _questions(
    benchmark: Benchmark, rule: Rule, rows: Sequence[BenchmarkRow], answers: Sequence[Answer]
) -> Questions:
    """What a rule counts: rows, questions with all their rotations, or rows in each group."""
    if rule.circular:
        (table,) = score_tables(answers, [rule.metric])
        first_rows, hits = _circular(rows, table.scores)
        return Questions(first_rows, _as_answers(hits), Hits(rule.figures[0]))
    if rule.repeated:
        (column,) = benchmark.breakdown
        alone = [
            (replace(row, cells={**row.cells, column: value}), answer)
            for row, answer in zip(rows, answers, strict=True)
            for value in row.cells.get(column, "").split(benchmark.separator)
        ]
        return Questions([row for row, _ in alone], [one for _, one in alone], rule.metric)
    return Questions(rows, answers, rule.metric)


def _single_rows(rule: Rule, answers: Sequence[Answer]) -> dict[str, float]:
    """The figures of rows that are counted one by one."""
    return set_figures(score_tables(answers, [rule.metric]))


def _breakdown(
    benchmark: Benchmark, questions: Questions
) -> dict[str, dict[str, dict[str, float]]]:
    """The figures of every value of each column of the breakdown."""
    groups: dict[str, dict[str, list[Answer]]] = defaultdict(lambda: defaultdict(list))
    for column in benchmark.breakdown:
        for row, answer in zip(questions.rows, questions.answers, strict=True):
            for value in row.cells.get(column, "").split(benchmark.separator):
                groups[column][value].append(answer)
    return {
        column: {
            value: set_figures(score_tables(answers, [questions.metric]))
            for value, answers in sorted(of_column.items())
        }
        for column, of_column in groups.items()
    }


def _circular(
    rows: Sequence[BenchmarkRow], scores: Sequence[float]
) -> tuple[list[BenchmarkRow], list[float]]:
    """The first row of each question, and 1 where all its rows are right."""
    found: dict[int, tuple[BenchmarkRow, float]] = {}
    for row, score in zip(rows, scores, strict=True):
        key = int(row.index) % ROTATION
        first, hit = found.get(key, (row, 1.0))
        found[key] = (first if int(first.index) <= int(row.index) else row, min(hit, score))
    return [row for row, _ in found.values()], [hit for _, hit in found.values()]


def _as_answers(scores: Sequence[float]) -> list[Answer]:
    """Answers that hold their scores as text, for `Hits`."""
    empty = Answer(source="", question_type="", question="", references=("1",), text="")
    return [replace(empty, text=str(score)) for score in scores]


def _with_guesses(rule: Rule, answers: Sequence[Answer]) -> float:
    """The main figure if every unread answer were a seeded random one instead of wrong."""
    assert rule.guess is not None
    generator = Random(0)
    guesses = [rule.guess(answer, generator) for answer in answers]
    pairs = zip(answers, guesses, strict=True)
    guessed = [answer if guess is None else replace(answer, text=guess) for answer, guess in pairs]
    return _single_rows(rule, guessed)[rule.figures[0]]
