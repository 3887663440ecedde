"""Curves of one or several runs as SVG for a page and as PNG files."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dsvl_tune.core.storage.files import atomic_write
from dsvl_tune.report.run_record import Curve, RunRecord, read_curves
from dsvl_tune.report.tables import KNOWN

SIZE = (6, 3.375)
"""Of a plot in inches, for texts of 10 pt: they are legible on a phone, too."""
LEGEND_CHARACTERS = 60
"""Of a line of a legend, without its samples of lines."""
INK = "#5a6b7c"
"""Color of axes and text in a PNG; in an SVG it becomes the text color of the page."""
COLORS = ("#2f7ed8", "#d9822b", "#3c9d4e", "#a05fc4", "#c9453c", "#1f9ba6", "#8a6d3b", "#d4588f")
"""Lines, one after another: each with a contrast of at least 3 to white and to near-black."""
NOT_DRAWN = ("val_low/", "val_high/")
"""Beginnings of logged names without a plot: ends of intervals."""
MOST_LINES = 12
"""Lines of one plot; more cannot be distinguished."""


@dataclass(frozen=True)
class Plot:
    """Some curves over the optimizer steps.

    Attributes:
        name: Of the file.
        title: What it shows.
        lines: Curve by label.
        left_out: Curves that were left out because a plot shows at most `MOST_LINES`.
    """

    name: str
    title: str
    lines: Mapping[str, Curve]
    left_out: int = 0


def plots_of(runs: Sequence[RunRecord]) -> list[Plot]:
    """Choose the plots of one run, or of several runs over each other.

    Losses share a plot, as do those by source and the learning rates of the parts; a metric has one
    with its values by question type; every other logged name has its own.

    Args:
        runs: At least one.
    """
    titles: dict[str, str] = {}
    groups: dict[str, dict[str, Curve]] = {}
    for run in runs:
        for name, curve in run.curves.items():
            if name.startswith(NOT_DRAWN):
                continue
            group, titles_of_group = _group(name)
            titles.setdefault(group, titles_of_group)
            label = name if len(runs) == 1 else f"{run.name}: {name}"
            groups.setdefault(group, {})[label] = curve
    order = sorted(
        groups, key=lambda group: (not group.startswith("loss"), not group.startswith("val"), group)
    )
    return [_plot(group, titles[group], groups[group]) for group in order]


def svg(plot: Plot) -> str:
    """Draw a plot as an SVG element whose text has the color and font of the page."""
    return figure_svg(_draw(plot), plot.name)


def figure_svg(figure: Figure, name: str) -> str:
    """Turn a figure into an SVG element whose text has the color and font of the page.

    Args:
        figure: Whose axes and texts have the color `INK`.
        name: Of the plot, different from those of all other plots of the page.
    """
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        untold = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=untold)
    element = buffer.getvalue()
    element = element[element.index("<svg") :].replace(INK, "currentColor")
    element = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", element)
    # Names inside an SVG are global in a page: two plots must not share one.
    element = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{_identifier(name)}-", element)
    return re.sub(r' (width|height)="[\d.]+pt"', "", element, count=2)  # the page sets them


def write_png(plot: Plot, folder: Path) -> Path:
    """Write a plot as a PNG file of 1,440 x 810 px.

    Args:
        plot: What to draw.
        folder: Where; it exists.
    """
    return figure_png(_draw(plot), plot.name, folder)


def losses_png(run: Path) -> bytes | None:
    """Draw the losses of a run for its model card.

    Args:
        run: Its folder, finished or not.

    Returns:
        A PNG of 800 x 450 px; None if nothing was logged.
    """
    curves = {
        name: curve
        for name, curve in read_curves(run / "metrics").items()
        if _group(name)[0] == "loss"
    }
    if not curves:
        return None
    buffer = io.BytesIO()
    _draw(_plot("loss", "Loss", curves)).savefig(
        buffer, dpi=800 / SIZE[0], facecolor="white", format="png"
    )
    return buffer.getvalue()


def figure_png(figure: Figure, name: str, folder: Path) -> Path:
    """Write a figure as a PNG file.

    Args:
        figure: What to write.
        name: Of the plot; the file is named after it.
        folder: Where; it exists.
    """
    path = folder / f"{_identifier(name)}.png"
    dpi = 1440 / figure.get_figwidth()
    atomic_write(path, partial(figure.savefig, dpi=dpi, facecolor="white", format="png"))
    return path


def _group(name: str) -> tuple[str, str]:
    """Name and title of the plot that a logged name belongs to."""
    split, _, rest = name.partition("/")
    if split in ("train", "val") and rest.startswith("loss"):
        return ("loss of sources", "Loss by source") if "/" in rest else ("loss", "Loss")
    if split.startswith("lr"):
        return "lr", "Learning rate"
    if split == "val":
        metric, _, below = rest.partition("/")
        if not is_figure(metric) and is_figure(below.partition("/")[0]):
            held_out, metric = metric, below.partition("/")[0]
            return f"val {held_out} {metric}", f"{_words(metric)} on {held_out}"
        return f"val {metric}", f"{_words(metric)} on validation rows"
    return name, name


def is_figure(name: str) -> bool:
    """Whether a name is that of a figure of a metric of this package."""
    return any(metric.is_better_higher(name) is not None for metric in KNOWN)


def _words(figure: str) -> str:
    """A figure's name at the beginning of a title."""
    return figure.replace("_", " ").capitalize()


def _plot(name: str, title: str, lines: Mapping[str, Curve]) -> Plot:
    """Make a plot of the lines, those with the fewest slashes in their names first."""
    labels = sorted(lines, key=lambda label: label.count("/"))
    shown = {label: lines[label] for label in labels[:MOST_LINES]}
    return Plot(name, title, shown, left_out=len(labels) - len(shown))


def _draw(plot: Plot) -> Figure:
    """Draw the curves with a legend."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    names = _short_names(list(plot.lines))
    for place, (label, curve) in enumerate(plot.lines.items()):
        steps, values = zip(*curve, strict=True)
        style = "-" if place < len(COLORS) else "--"
        marker = "o" if len(curve) < 20 else None
        color = COLORS[place % len(COLORS)]
        axes.plot(
            steps, values, style, color=color, label=names[label], marker=marker, markersize=4
        )
    axes.set_xlabel("optimizer step", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(colors=INK)
    axes.grid(color=INK, alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(INK)
    if len(plot.lines) > 1:  # below the axes, where it hides no curve
        columns = max(1, min(3, LEGEND_CHARACTERS // max(map(len, names.values()))))
        figure.legend(loc="outside lower center", ncols=columns, labelcolor=INK, frameon=False)
    return figure


def _short_names(labels: Sequence[str]) -> dict[str, str]:
    """The labels without the folders that they all begin with, as a legend shows them."""
    parts = [label.split("/") for label in labels]
    shared = sum(
        1 for _ in takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))
    )
    return {
        label: "/".join(own[shared:]) or own[-1] for label, own in zip(labels, parts, strict=True)
    }


def _identifier(name: str) -> str:
    """Turn a name into one for a file and an XML id."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "plot"
