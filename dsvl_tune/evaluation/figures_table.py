"""Figures as people read them: in percent or not, with intervals and changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dsvl_tune.core.text_table import format_table
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.evaluation.statistics import FEW_QUESTIONS, Change, Interval

NO_FIGURE = "-"


def is_percent(name: str, metrics: Iterable[Metric]) -> bool:
    """Whether a figure is printed in percent, by its name below a set, e.g. "anls/table"."""
    for metric in metrics:
        if metric.is_better_higher(name.split("/")[0]) is not None:
            return metric.percent
    return False


def figure_text(figure: float | None, *, percent: bool, digits: int = 1) -> str:
    """A figure: "87.3 %" or "0.873"; "-" where there is none.

    Args:
        figure: as it was measured.
        percent: whether it is shown in percent.
        digits: after the point, in percent; other figures get two more.
    """
    if figure is None:
        return NO_FIGURE
    return f"{100 * figure:.{digits}f} %" if percent else f"{figure:.{digits + 2}f}"


def interval_text(interval: Interval | None, *, percent: bool) -> str:
    """An interval: "[81.0, 92.5]"; "-" where there is none."""
    if interval is None:
        return NO_FIGURE
    factor, digits = (100, 1) if percent else (1, 3)
    return f"[{factor * interval.low:.{digits}f}, {factor * interval.high:.{digits}f}]"


def difference_text(change: Change | None, *, percent: bool) -> str:
    """A difference alone: "+12.4" points, or "+0.124"; "-" where there is none."""
    if change is None:
        return NO_FIGURE
    return f"{100 * change.difference:+.1f}" if percent else f"{change.difference:+.3f}"


def change_text(change: Change | None, *, percent: bool) -> str:
    """A change: "+12.4 points, 95 % [8.1, 16.5]"; "-" where there is none."""
    if change is None:
        return NO_FIGURE
    interval = interval_text(Interval(change.low, change.high), percent=percent)
    points = " points" if percent else ""
    return f"{difference_text(change, percent=percent)}{points}, 95 % {interval}"


def figures_table(
    figures: Mapping[str, float],
    intervals: Mapping[str, Interval],
    metrics: Sequence[Metric],
) -> str:
    """A table of the figures of one set of answers.

    Args:
        figures: from `set_figures`.
        intervals: of figures, by the same names.
        metrics: that were measured.
    """
    rows = []
    for name, figure in figures.items():
        percent = is_percent(name, metrics)
        rows.append(
            [
                name,
                figure_text(figure, percent=percent, digits=2),
                interval_text(intervals.get(name), percent=percent),
            ]
        )
    return format_table(["metric", "figure", "95 % interval"], rows)


def small_set_text(questions: int) -> str:
    """A warning where a set is small, "" where it is not."""
    if questions >= FEW_QUESTIONS:
        return ""
    counted = "1 scored question" if questions == 1 else f"{questions} scored questions"
    return (
        f"only {counted}: figures can differ by many points from those of more "
        "questions, and their intervals are rough"
    )
