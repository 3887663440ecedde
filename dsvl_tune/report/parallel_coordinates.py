"""A plot in parallel coordinates: an axis for each variable, a line for each trial.

Optuna's own cuts off names, hides ticks behind lines and has one color for its text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from dsvl_tune.report.plots import COLORS, INK, SIZE

WORST, BEST, WINNER = "#8f9caa", COLORS[0], COLORS[1]
"""Lines from the worst figure to the best, and the best trial: seen on white and near-black."""
TICKS = 5


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        name: Written below it.
        places: Of the trials on it, 0 at the bottom to 1 at the top.
        ticks: Label by place.
    """

    name: str
    places: Sequence[float]
    ticks: Sequence[tuple[float, str]]


def list_axis(
    name: str, values: Sequence[Any], choices: Sequence[Any], text: Callable[[Any], str]
) -> Axis:
    """Make the axis of a variable that has some values; numbers are in ascending order.

    Args:
        name: Of the variable.
        values: Of the trials.
        choices: Every value.
        text: Writes a value.
    """
    is_numeric = all(type(choice) in (int, float) for choice in choices)
    ordered = sorted(choices) if is_numeric else list(choices)
    last = max(1, len(ordered) - 1)
    ticks = [(place / last, text(choice)) for place, choice in enumerate(ordered)]
    return Axis(name, [ordered.index(value) / last for value in values], ticks)


def number_axis(
    name: str, values: Sequence[Any], text: Callable[[Any], str], *, is_log: bool = False
) -> Axis:
    """Make the axis of numbers, from the least to the greatest.

    Args:
        name: Of the variable.
        values: Of the trials.
        text: Writes a number.
        is_log: Whether equal factors have equal distances.
    """
    scaled = [math.log(value) if is_log else float(value) for value in values]
    low, high = min(scaled, default=0.0), max(scaled, default=0.0)
    if low == high:
        return Axis(name, [0.5] * len(scaled), [(0.5, text(values[0]))] if scaled else [])
    span = high - low
    places = [place / (TICKS - 1) for place in range(TICKS)]
    at = [math.exp(low + place * span) if is_log else low + place * span for place in places]
    ticks = [(place, text(number)) for place, number in zip(places, at, strict=True)]
    return Axis(name, [(value - low) / span for value in scaled], ticks)


def draw(
    axes: Sequence[Axis], *, best: int | None, dashed: Sequence[bool], higher_is_better: bool
) -> Figure:
    """Draw the plot.

    Args:
        axes: Of the variables, then that of the figure, which gives the lines their colors.
        best: Place of the best trial among the others; None for none.
        dashed: Whether the line of a trial is dashed.
        higher_is_better: Whether a high figure is a good one.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    plot = figure.subplots()
    colors = LinearSegmentedColormap.from_list("trials", [WORST, BEST])
    order = [place for place in range(len(dashed)) if place != best]
    for trial in [*order, *([] if best is None else [best])]:
        goodness = axes[-1].places[trial] if higher_is_better else 1 - axes[-1].places[trial]
        is_best = trial == best
        plot.plot(
            range(len(axes)),
            [axis.places[trial] for axis in axes],
            linestyle="--" if dashed[trial] else "-",
            color=WINNER if is_best else colors(goodness),
            linewidth=3 if is_best else 1.5,
            marker="o",
            markersize=5 if is_best else 3,
        )
    _draw_axes(plot, axes)
    return figure


def _draw_axes(plot: Any, axes: Sequence[Axis]) -> None:
    """Draw the axes with their names and ticks."""
    for place, axis in enumerate(axes):
        plot.axvline(place, color=INK, linewidth=1, zorder=0)
        is_last = place == len(axes) - 1
        for height, label in axis.ticks:
            plot.annotate(
                label,
                (place, height),
                xytext=(6 if is_last else -6, 0),
                textcoords="offset points",
                ha="left" if is_last else "right",
                va="center",
                color=INK,
                fontsize=9,
            )
    plot.set_xticks(range(len(axes)), [axis.name.replace(".", ".\n") for axis in axes])
    plot.tick_params(colors=INK, length=0)
    plot.set_yticks([])
    plot.set_ylim(-0.05, 1.05)
    plot.set_xlim(-0.45, len(axes) - 0.55)
    plot.spines[:].set_visible(False)
