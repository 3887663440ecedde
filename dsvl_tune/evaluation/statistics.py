"""How far figures of a sample of questions can be trusted: bootstrap intervals and paired changes.

The questions of each type are drawn again with replacement (Efron, 1979; percentile intervals). For
a change the same draw is taken before and after, because both answered the same questions (Koehn,
EMNLP 2004, "Statistical Significance Tests for Machine Translation Evaluation").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsvl_tune.evaluation.scoring import ScoreTable, mean_over_types

RESAMPLES = 1000
"""Draws; the ends of an interval then vary by about a tenth of its half width."""
CHUNK = 100
"""Draws that are held in memory at a time."""
CONFIDENCE = 0.95
FEW_QUESTIONS = 100
"""Below this, a set is called small: its 95 % interval of a share can span 20 points and more."""


class Interval(NamedTuple):
    """A bootstrap interval.

    Attributes:
        low: lower end.
        high: upper end.
    """

    low: float
    high: float


class Change(NamedTuple):
    """The difference of a figure on the same questions.

    Attributes:
        difference: after minus before.
        low: lower end of its interval.
        high: upper end of its interval.
    """

    difference: float
    low: float
    high: float


def intervals(tables: Sequence[ScoreTable]) -> dict[str, Interval]:
    """95 % intervals of the figures of a set, by the names of `set_figures`.

    Figures that are no function of sums have none.

    Args:
        tables: of each metric.
    """
    found: dict[str, Interval] = {}
    for table in tables:
        if table.names:
            found |= {name: _interval(drawn) for name, drawn in _draw(table)[0].items()}
    return found


def changes(before: Sequence[ScoreTable], after: Sequence[ScoreTable]) -> dict[str, Change]:
    """Changes of the figures of a set, with 95 % intervals of paired draws.

    Args:
        before: of some metrics.
        after: of the same metrics and questions.

    Returns:
        By the names of `set_figures`; none of a metric without sums or of other questions.
    """
    found: dict[str, Change] = {}
    earlier = {table.metric.name: table for table in before}
    for other in after:
        one = earlier.get(other.metric.name)
        if one is None or not one.names or not _same_questions(one, other):
            continue
        drawn_before, drawn_after = _draw(one, other)
        measured_before, measured_after = _measured(one), _measured(other)
        for name, drawn in drawn_after.items():
            if name in drawn_before and name in measured_before and name in measured_after:
                difference = measured_after[name] - measured_before[name]
                found[name] = Change(difference, *_interval(drawn - drawn_before[name]))
    return found


def _same_questions(one: ScoreTable, other: ScoreTable) -> bool:
    """Whether two tables are of the same questions in the same order."""
    pairs = zip(one.answers, other.answers, strict=False)
    return len(one.answers) == len(other.answers) and all(
        (first.question, first.question_type, first.references)
        == (second.question, second.question_type, second.references)
        for first, second in pairs
    )


def _interval(drawn: NDArray[np.float64]) -> Interval:
    """The middle 95 % of drawn figures: [R] float64, NaN where a draw had no such figure."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    return Interval(float(low), float(high))


def _measured(table: ScoreTable) -> dict[str, float]:
    """The figures of a table, for all types and each."""
    return _named({name: table.figures(rows) for name, rows in table.types.items()})


def _named(of_types: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Figures over all types, and `NAME/TYPE`, as `set_figures` names them."""
    named = mean_over_types(of_types)
    for question_type, figures in of_types.items():
        if question_type:
            named |= {f"{name}/{question_type}": figure for name, figure in figures.items()}
    return named


def _draw(*tables: ScoreTable) -> list[dict[str, NDArray[np.float64]]]:
    """Figures of drawn questions, the same draws for each table: [R] float64 each, by name."""
    drawn: list[list[dict[str, float]]] = [[] for _ in tables]
    for multiplicities in _multiplicities(tables[0]):
        for figures, table in zip(drawn, tables, strict=True):
            figures += _figures_of_draws(table, multiplicities)
    columns = []
    for figures in drawn:
        names = dict.fromkeys(name for one in figures for name in one)
        columns.append(
            {name: np.array([one.get(name, np.nan) for one in figures]) for name in names}
        )
    return columns


def _multiplicities(table: ScoreTable) -> Iterator[dict[str, NDArray[np.int64]]]:
    """How often each question of each type is drawn: [CHUNK, A of the type] int64."""
    generator = np.random.default_rng(0)
    sizes = {name: len(rows) for name, rows in table.types.items()}
    for _ in range(RESAMPLES // CHUNK):
        yield {
            name: generator.multinomial(size, np.full(size, 1 / size), CHUNK)
            for name, size in sizes.items()
        }


def _figures_of_draws(
    table: ScoreTable, multiplicities: Mapping[str, NDArray[np.int64]]
) -> list[dict[str, float]]:
    """The figures of each draw."""
    sums = {name: multiplicities[name] @ table.counts[rows] for name, rows in table.types.items()}
    return [
        _named({name: table.figures_of_sums(of_type[draw]) for name, of_type in sums.items()})
        for draw in range(CHUNK)
    ]
