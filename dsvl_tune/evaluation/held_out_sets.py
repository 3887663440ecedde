"""The answers to held-out sets: by set, within a limit of time, and their figures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from dsvl_tune.evaluation.answers import Answer, gather_answers
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.evaluation.scoring import ScoreTable, score_tables, set_figures
from dsvl_tune.evaluation.statistics import changes, intervals

SetTables = dict[str, list[ScoreTable]]
"""Scores of each held-out set, by its name."""
MAIN_SETS = ("validation", "test")
"""Sets of the domain, whose figures have no name of a set before them."""


class SetAnswers:
    """The answers of this process, while they come.

    Args:
        sets: names of the held-out sets, in the order in which they are answered.
        seconds: for all of them; None sets no limit. The time that is left is split evenly between
            the sets that are left, and every set gets at least one batch.
    """

    def __init__(self, sets: Sequence[str], seconds: float | None = None) -> None:
        self.by_set: dict[str, list[Answer]] = {name: [] for name in sets}
        self.seconds = seconds
        self._ends: dict[str, float] = {}
        self._began = time.monotonic()

    def is_out_of_time(self, name: str) -> bool:
        """Whether no further batch of a set is to be answered.

        Args:
            name: of the set that is being answered.
        """
        if self.seconds is None:
            return False
        now = time.monotonic()
        if name not in self._ends:
            left = self.seconds - (now - self._began)
            sets = len(self.by_set) - len(self._ends)
            self._ends[name] = now + left / sets
            return False
        return now > self._ends[name]

    def add(self, name: str, answers: Sequence[Answer]) -> None:
        """Add answers to a set."""
        self.by_set[name] += answers

    def tables(self, metrics: Mapping[str, Sequence[Metric]]) -> SetTables:
        """The scores of the answers of all processes; every process must call this.

        Args:
            metrics: of each set, by its name.
        """
        return {
            name: score_tables(gather_answers(own), metrics[name])
            for name, own in self.by_set.items()
        }


def set_prefix(name: str) -> str:
    """What stands before the names of a set's figures: nothing for the domain's own rows."""
    return "" if name in MAIN_SETS else f"{name}/"


def sets_figures(tables: Mapping[str, Sequence[ScoreTable]]) -> dict[str, float]:
    """The figures of each set, under its prefix.

    Args:
        tables: scores of each set, by its name.
    """
    return {
        set_prefix(name) + figure: value
        for name, of_set in tables.items()
        for figure, value in set_figures(of_set).items()
    }


def confidence(before: SetTables, after: SetTables) -> dict[str, Any]:
    """How far the figures can be trusted, for `summary.json`.

    Args:
        before: scores of each set, by its name; {} if they are not known.
        after: scores of the same sets.

    Returns:
        `questions`: scored questions of each set; `intervals` of the figures afterwards; `changes`
        of figures, with intervals of paired draws.
    """
    questions = {}
    found: dict[str, Any] = {}
    changed: dict[str, Any] = {}
    for name, tables in after.items():
        prefix = set_prefix(name)
        questions[name] = max((len(table.answers) for table in tables), default=0)
        for figure, interval in intervals(tables).items():
            found[prefix + figure] = list(interval)
        for figure, change in changes(before.get(name, []), tables).items():
            changed[prefix + figure] = change._asdict()
    return {"questions": questions, "intervals": found, "changes": changed}
