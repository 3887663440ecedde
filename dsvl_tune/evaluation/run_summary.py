"""What a run prints at its end, of what `summary.json` holds; and what validate and test print."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsvl_tune.core.text_table import format_table
from dsvl_tune.evaluation.figures_table import (
    change_text,
    difference_text,
    figure_text,
    figures_table,
    interval_text,
    is_percent,
    small_set_text,
)
from dsvl_tune.evaluation.held_out_sets import SetTables
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.evaluation.scoring import set_figures
from dsvl_tune.evaluation.statistics import Change, Interval, intervals


def summary_text(summary: dict[str, Any], run_folder: Path, metrics: Sequence[Metric]) -> str:
    """The table and lines that a run prints at its end.

    Args:
        summary: content of `summary.json`.
        run_folder: the run's.
        metrics: of all held-out sets.
    """
    table = figures_before_and_after(summary, metrics)
    minutes, seconds = divmod(round(summary["wall_s"]), 60)
    memory = f"{summary['peak_rss_bytes'] / 2**30:.2f} GiB"
    if summary["peak_gpu_bytes"]:
        memory += f", on the GPU {summary['peak_gpu_bytes'] / 2**30:.2f} GiB"
    lines = [
        f"\nheld-out questions\n{table}\n",
        *small_sets(summary.get("questions", {})),
        *forgotten(summary, metrics),
        f"steps: {summary['steps']}, trained parameters: {summary['trainable_parameters']:,}",
        f"time: {minutes} min {seconds} s, peak memory: {memory}",
        f"best checkpoint: {summary['best_checkpoint']}",
        *([f"ended by {summary['ended']}"] if "ended" in summary else []),
        f"run folder: {run_folder}",
    ]
    return "\n".join(lines)


def next_step_text(run_folder: Path) -> str:
    """The last line of a run: the command that usually follows."""
    return f"next: dsvl-tune merge {shlex.quote(str(run_folder))}"


def figures_before_and_after(summary: Mapping[str, Any], metrics: Sequence[Metric]) -> str:
    """The table of the figures before and after training.

    Args:
        summary: content of `summary.json`.
        metrics: of all held-out sets.
    """
    rows = []
    for name in summary["after"]:
        if name.count("/") > 1:
            continue  # the question types of a retention set are in summary.json
        set_name, _, figure = name.partition("/")
        percent = is_percent(figure if set_name in summary.get("questions", {}) else name, metrics)
        columns = [summary[column].get(name) for column in ("before", "after", "majority_baseline")]
        before, after, majority = (figure_text(one, percent=percent) for one in columns)
        found = summary.get("changes", {}).get(name)
        change = Change(**found) if found else None
        interval = Interval(change.low, change.high) if change else None
        changed = [
            difference_text(change, percent=percent),
            interval_text(interval, percent=percent),
        ]
        rows.append([name, before, after, *changed, majority])
    if not rows:
        return "none has an answer, so nothing is scored; dsvl-tune predict answers questions"
    return format_table(["metric", "before", "after", "change", "95 % interval", "majority"], rows)


def forgotten(summary: dict[str, Any], metrics: Sequence[Metric]) -> list[str]:
    """A warning for each figure of a held-out set that fell, beyond what chance explains.

    Args:
        summary: content of `summary.json`.
        metrics: of all held-out sets.
    """
    of_sets: dict[str, dict[str, Change]] = {}
    for name, change in summary.get("changes", {}).items():
        set_name, _, figure = name.partition("/")
        if set_name != "test" and set_name in summary.get("questions", {}):
            of_sets.setdefault(set_name, {})[figure] = Change(**change)
    return [
        f"warning: {name} got worse ({text}): the model forgets. Mix rows of its kind into the "
        "training data (MixtureDataModule), or train less."
        for name, changes in of_sets.items()
        for text in forgotten_figures(changes, metrics)
    ]


def forgotten_figures(changes: Mapping[str, Change], metrics: Sequence[Metric]) -> list[str]:
    """The changes for the worse of a set's main figures, beyond what chance explains, in words.

    Args:
        changes: of the figures of a set, by name.
        metrics: that may be among them.
    """
    found = []
    for metric in metrics:
        change = changes.get(metric.name)
        if change is None:
            continue
        if change.high < 0 if metric.higher_is_better else change.low > 0:
            found.append(f"{metric.name} {change_text(change, percent=metric.percent)}")
    return found


def small_sets(questions: Mapping[str, int]) -> list[str]:
    """A line for each set that is small.

    Args:
        questions: scored questions of each set.
    """
    notes = {name: small_set_text(count) for name, count in questions.items() if count}
    return [f"{name}: {note}" for name, note in notes.items() if note]


def evaluation_text(tables: SetTables, means: Mapping[str, float]) -> str:
    """What `validate` and `test` print: a table for each held-out set.

    Args:
        tables: scores of each set, by its name.
        means: over all validation rows: the loss, and those of its tokens; {} of test rows.
    """
    lines = [f"{name}: {value:.4f}" for name, value in means.items()]
    for name, of_set in tables.items():
        metrics = [table.metric for table in of_set]
        lines.append(f"\n{name}\n{figures_table(set_figures(of_set), intervals(of_set), metrics)}")
        lines += small_sets({name: max((len(table.answers) for table in of_set), default=0)})
    return "\n".join(lines)
