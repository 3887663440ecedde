"""Scores of answers by the metrics of a data module: of each answer, of each type, and of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics import Metric, find_metrics

if TYPE_CHECKING:
    from dsvl_tune.data.rows import Rows  # imports torch, which scoring does not need


def score_answers(answers: Sequence[Answer], metrics: Sequence[Metric]) -> list[Answer]:
    """The answers with their scores; those to questions without a reference get none.

    Raises:
        UserError: a reference is not what a metric expects; names file and row.
    """
    return with_scores(answers, score_tables(answers, metrics))


def aggregate_scores(answers: Sequence[Answer], metrics: Sequence[Metric]) -> dict[str, float]:
    """The figures of a set of answers that has references, see `set_figures`.

    Args:
        answers: of all processes. Those without a reference do not count.
        metrics: what is measured.
    """
    return set_figures(score_tables(answers, metrics))


@dataclass(frozen=True)
class ScoreTable:
    """What one metric says of a set of answers.

    Attributes:
        metric: what is measured.
        answers: those with references, in order.
        scores: of each answer.
        names: of the counts.
        counts: [A, K] float64, the metric's additive counts of each answer; [A, 0] for a metric
            whose figures are no function of sums.
    """

    metric: Metric
    answers: Sequence[Answer]
    scores: Sequence[float]
    names: tuple[str, ...]
    counts: NDArray[np.float64]

    def figures(self, rows: NDArray[np.intp]) -> dict[str, float]:
        """The figures of some answers, by full name.

        Args:
            rows: positions of at least one answer.
        """
        if not self.names:
            chosen = [self.answers[row] for row in rows]
            figure = self.metric.aggregate(
                [answer.text for answer in chosen], [answer.references for answer in chosen]
            )
            assert figure is not None
            return {self.metric.name: figure}
        return self.figures_of_sums(self.counts[rows].sum(0))

    def figures_of_sums(self, sums: NDArray[np.float64]) -> dict[str, float]:
        """The figures of sums of the counts, by full name.

        Args:
            sums: [K] float64.
        """
        figures = self.metric.figures(dict(zip(self.names, sums.tolist(), strict=True)))
        return {self.metric.figure_name(name): figure for name, figure in figures.items()}

    @cached_property
    def types(self) -> dict[str, NDArray[np.intp]]:
        """Positions of the answers of each question type, in the order of their names."""
        types = [answer.question_type for answer in self.answers]
        return {name: np.flatnonzero([one == name for one in types]) for name in sorted(set(types))}


def score_tables(answers: Sequence[Answer], metrics: Sequence[Metric]) -> list[ScoreTable]:
    """Score a set of answers by each metric; metrics without an answer to score are left out.

    Args:
        answers: of all processes. Those without a reference do not count.
        metrics: what is measured, but for rows that name their own metrics.

    Raises:
        UserError: a reference is not what a metric expects, or a row names no metric; names file
            and row.
    """
    scored = [answer for answer in answers if answer.references]
    tables = []
    for metric in [*metrics, *_own_metrics(scored, metrics)]:
        rows = [one for one in scored if is_scored_by(one, metric, metrics)]
        if rows:
            tables.append(_score_table(metric, rows))
    return tables


def is_scored_by(answer: Answer, metric: Metric, metrics: Sequence[Metric]) -> bool:
    """Whether a metric scores an answer: one that its row names, else one of the data module."""
    named = answer.own_metrics
    return metric.name in named if named else metric in metrics


def _own_metrics(answers: Iterable[Answer], metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics that rows name and the data module does not.

    Raises:
        UserError: there is no such metric; names file and row.
    """
    known = {metric.name for metric in metrics}
    found: dict[str, Metric] = {}
    for answer in answers:
        for name in answer.own_metrics:
            if name not in known and name not in found:
                (found[name],) = find_metrics([name], f"{answer.source}: metric")
    return list(found.values())


def _score_table(metric: Metric, answers: Sequence[Answer]) -> ScoreTable:
    """Score answers by one metric."""
    scores = metric.score_answers(answers)
    figure = metric.aggregate(
        [answer.text for answer in answers], [answer.references for answer in answers]
    )
    if figure is not None:
        return ScoreTable(metric, answers, scores, (), np.empty((len(answers), 0)))
    counts = metric.counts(answers, scores)
    return ScoreTable(metric, answers, scores, tuple(counts), np.column_stack([*counts.values()]))


def reference_answers(rows: Rows) -> list[Answer]:
    """The questions of rows, each answered with its first reference.

    Scored, they have every figure that answers of a model can have, and find every reference that
    a metric cannot read.
    """
    return [
        Answer(
            source=conversation.source,
            question_type=conversation.question_type,
            question=conversation.question,
            references=conversation.accepted_answers,
            text=conversation.accepted_answers[0],
            fields=conversation.scoring,
        )
        for row in rows
        for conversation in row
        if conversation.accepted_answers
    ]


def with_scores(answers: Sequence[Answer], tables: Sequence[ScoreTable]) -> list[Answer]:
    """The answers with their scores by name of the metric.

    Args:
        answers: that the tables were made of.
        tables: of each metric.
    """
    scores: dict[int, dict[str, float]] = {}
    for table in tables:
        for answer, score in zip(table.answers, table.scores, strict=True):
            scores.setdefault(id(answer), {})[table.metric.name] = score
    return [replace(answer, scores=scores.get(id(answer), {})) for answer in answers]


def set_figures(tables: Iterable[ScoreTable]) -> dict[str, float]:
    """The figures of a set of answers.

    A figure is the mean over question types and not over questions: a type with many easy questions
    must not hide one that fails. Data without types have the one type "".

    Args:
        tables: of each metric.

    Returns:
        For each figure `NAME`, and `NAME/TYPE` for each question type.
    """
    figures: dict[str, float] = {}
    for table in tables:
        of_types = {name: table.figures(rows) for name, rows in table.types.items()}
        figures |= mean_over_types(of_types)
        for question_type, of_type in of_types.items():
            if question_type:
                figures |= {f"{name}/{question_type}": value for name, value in of_type.items()}
    # Lightning logs and compares in float32.
    return {name: float(np.float32(figure)) for name, figure in figures.items()}


def mean_over_types(of_types: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Each figure as the mean over the question types that have it.

    Args:
        of_types: figures of each type.
    """
    names = dict.fromkeys(name for figures in of_types.values() for name in figures)
    means = {}
    for name in names:
        values = [figures[name] for figures in of_types.values() if name in figures]
        means[name] = sum(values) / len(values)
    return means
