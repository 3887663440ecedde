"""Tables of a report: results, what was trained on what, differences between runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsvl_tune.core.dotted_keys import by_dotted_key
from dsvl_tune.core.storage.files import format_bytes
from dsvl_tune.evaluation.figures_table import (
    NO_FIGURE,
    figure_text,
    interval_text,
    is_percent,
)
from dsvl_tune.evaluation.metrics import METRICS
from dsvl_tune.evaluation.statistics import Interval
from dsvl_tune.evaluation.text_task_report import TaskFigure, task_figures
from dsvl_tune.report.run_record import WHEN, Question, RunRecord

MOST_CHOICES = 12
"""Different references up to which a table shows which answer was given for which."""
OTHER = "(other)"
"""Column of the answers that no question accepts."""
KNOWN = [metric() for metric in METRICS.values()]
"""The metrics of this package: they say how their figures are printed, and which are better."""
UNTOLD = ("run_name", "resume", "time_limit_s", "checkpoint_every_steps")
"""Settings that do not tell how two runs differ in what they compute."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it shows.
        css: Its class: "good", "bad", "text", "right" or "".
    """

    text: str
    css: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: Names of the columns.
        rows: Cells, as many in each row as there are columns.
        caption: What it shows; "" for none.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


def results_tables(run: RunRecord) -> list[Table]:
    """Figures before and after training: a table for each held-out set and figure.

    Args:
        run: A finished run.
    """
    tables = []
    for name in run.questions:
        prefix = "" if name == "test" else f"{name}/"
        of_set = {
            key.removeprefix(prefix): key
            for key in run.summary.get("after", {})
            if _set_of(key, run) == name
        }
        for figure in dict.fromkeys(key.partition("/")[0] for key in of_set):
            keys = {
                key.partition("/")[2]: full
                for key, full in of_set.items()
                if key.partition("/")[0] == figure
            }
            tables.append(_result_table(run, name, figure, keys))
    return tables


def text_tasks_table(run: RunRecord) -> Table:
    """Figures of text tasks of the base and of the tuned model, with standard errors.

    Args:
        run: A finished run.
    """
    columns = {
        when: {(one.task, one.name): one for one in task_figures(report["lm_eval"])}
        for when, report in run.text_tasks.items()
    }
    rows = []
    for key in dict.fromkeys(key for column in columns.values() for key in column):
        figures = [columns.get(when, {}).get(key) for when in WHEN]
        rows.append([Cell(text) for text in (*key, *map(_task_figure_text, figures))])
    versions = sorted({report["lm_eval"]["version"] for report in run.text_tasks.values()})
    caption = f"lm-eval {', '.join(versions)}: figure and standard error"
    return Table(["text task", "figure", *WHEN], rows, caption)


def _task_figure_text(figure: TaskFigure | None) -> str:
    """A figure with its standard error."""
    if figure is None:
        return NO_FIGURE
    spread = "" if figure.error is None else f" ± {figure.error:.4f}"
    return f"{figure.value:.4f}{spread}"


def metric_names(questions: Sequence[Question]) -> list[str]:
    """The metrics that scored some questions, in the order in which they were asked for.

    Args:
        questions: Of one set.
    """
    names = (name for question in questions for name in question.scores.get("after", {}))
    return list(dict.fromkeys(names))


def _set_of(key: str, run: RunRecord) -> str:
    """The held-out set that a key of the summary belongs to."""
    first, slash, _ = key.partition("/")
    return first if slash and first in run.questions else "test"


def _result_table(run: RunRecord, name: str, figure: str, keys: Mapping[str, str]) -> Table:
    """A figure of one set: of all questions, then of each question type.

    Args:
        run: A finished run.
        name: Of the set.
        figure: Of a metric, e.g. "anls".
        keys: Key in the summary by question type, "" for all questions.
    """
    asked = Counter(question.question_type for question in run.questions[name])
    columns = [run.summary.get(column, {}) for column in (*WHEN, "majority_baseline")]
    in_percent, higher = is_percent(figure, KNOWN), _is_better_higher(figure)
    rows = []
    for question_type, key in keys.items():
        before, after, baseline = (column.get(key) for column in columns)
        rows.append(
            [
                Cell(question_type or "all questions"),
                Cell(f"{asked[question_type] if question_type else asked.total():,}"),
                Cell(figure_text(before, percent=in_percent)),
                Cell(figure_text(after, percent=in_percent)),
                change_cell(before, after, percent=in_percent, higher=higher),
                Cell(_change_interval(run, key, in_percent)),
                Cell(figure_text(baseline, percent=in_percent)),
            ]
        )
    where = "held-out test rows" if name == "test" else f"{name}, outside the trained domain"
    better = "" if higher else "; lower is better"
    caption = f"{_title(figure)}: {where}{better}"
    header = ["", "questions", "before", "after", "change", "95 % interval", "majority baseline"]
    return Table(header, rows, caption)


def _change_interval(run: RunRecord, key: str, in_percent: bool) -> str:
    """The interval of a change by paired draws; "-" where the run has none."""
    change = run.summary.get("changes", {}).get(key)
    if not change:
        return NO_FIGURE
    return interval_text(Interval(change["low"], change["high"]), percent=in_percent)


def _is_better_higher(figure: str) -> bool:
    """Direction of a figure; figures of metrics that are not of this package count as higher."""
    directions = (metric.is_better_higher(figure) for metric in KNOWN)
    return next((higher for higher in directions if higher is not None), True)


def facts_table(run: RunRecord) -> Table:
    """What a run took: steps, time, memory, versions, base checkpoint.

    Args:
        run: A finished run.
    """
    summary, manifest = run.summary, run.manifest
    minutes, seconds = divmod(round(summary.get("wall_s", 0)), 60)
    facts = {
        "base checkpoint": run.settings.get("model", {}).get("checkpoint", "-"),
        "steps": f"{summary.get('steps', 0):,}",
        "trained parameters": f"{summary.get('trainable_parameters', 0):,}",
        "best checkpoint": summary.get("best_checkpoint", "-"),
        "time": f"{minutes} min {seconds} s",
        "peak memory": format_bytes(summary.get("peak_rss_bytes", 0)),
        "peak GPU memory": format_bytes(summary.get("peak_gpu_bytes", 0)),
        "machine": manifest.get("machine", "-"),
        "dsvl-tune": manifest.get("dsvl_tune", "-"),
    } | manifest.get("libraries", {})
    if not summary.get("peak_gpu_bytes"):
        del facts["peak GPU memory"]
    return _two_columns("Run", facts)


def plan_table(run: RunRecord) -> Table:
    """What happened to each model part.

    Args:
        run: A finished run.
    """
    rows = []
    for part, how in run.plan.items():
        mode = how.get("mode", "-")
        if mode == "lora":
            mode = f"lora, rank {how.get('rank')}"
        if how.get("quantization"):
            mode += f", on {how['quantization']}"
        trained = mode != "frozen"
        lr = how.get("lr") or run.settings.get("model", {}).get("lr", "-")
        rows.append([Cell(part), Cell(mode), Cell(str(lr) if trained else "-")])
    return Table(["part", "mode", "learning rate"], rows, "Plan")


def data_table(run: RunRecord) -> Table:
    """The data settings of a run.

    Args:
        run: A finished run.
    """
    data = run.settings.get("data", {})
    given = by_dotted_key(data.get("init_args", {}))
    return _two_columns("Data", {"class": data.get("class_path", "-"), **given})


def settings_differences(runs: Sequence[RunRecord]) -> Table:
    """The settings in which runs differ, a column for each run.

    Args:
        runs: At least two.
    """
    flat = [by_dotted_key(run.settings) for run in runs]
    names = sorted(set().union(*flat))
    rows = []
    for name in names:
        values = [str(settings.get(name, "-")) for settings in flat]
        if name not in UNTOLD and len(set(values)) > 1:
            rows.append([Cell(name), *(Cell(value, "text") for value in values)])
    return Table(["setting", *(run.name for run in runs)], rows)


def results_side_by_side(runs: Sequence[RunRecord]) -> Table:
    """Figures of runs after training, a column for each run.

    Args:
        runs: At least two.
    """
    columns = [run.summary.get("after", {}) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = []
    for name in names:
        figures = [column.get(name) for column in columns]
        figure_name = name if _set_of(name, runs[0]) == "test" else name.partition("/")[2]
        in_percent = is_percent(figure_name, KNOWN)
        choose = max if _is_better_higher(figure_name.partition("/")[0]) else min
        best = choose((figure for figure in figures if figure is not None), default=None)
        cells = [
            Cell(
                figure_text(figure, percent=in_percent),
                "right" if figure is not None and figure == best else "",
            )
            for figure in figures
        ]
        rows.append([Cell(name.replace("_", " ")), *cells])
    return Table(["after training", *(run.name for run in runs)], rows)


def confusion_table(questions: Sequence[Question]) -> Table | None:
    """Which answer was given for which reference.

    Args:
        questions: Of one set, answered after training.

    Returns:
        A row for each reference; None where there are more than `MOST_CHOICES` of them, or where a
        question accepts several.
    """
    answered = [question for question in questions if "after" in question.answers]
    if not answered or any(len(question.references) != 1 for question in answered):
        return None
    choices = sorted({question.references[0] for question in answered})
    if not 2 <= len(choices) <= MOST_CHOICES:
        return None
    pairs = Counter((q.references[0], q.answers["after"]) for q in answered)
    rows = []
    for reference in choices:
        counts = [pairs[reference, answer] for answer in choices]
        of_reference = sum(count for (asked, _), count in pairs.items() if asked == reference)
        cells = [
            Cell(str(count) if count else "", "right" if answer == reference else "")
            for answer, count in zip(choices, counts, strict=True)
        ]
        rows.append([Cell(reference), *cells, Cell(str(of_reference - sum(counts) or ""))])
    return Table(["reference", *choices, OTHER], rows, "Answers after training, by reference")


def known_figure(name: str, figures: Mapping[str, float]) -> str:
    """A figure of the test rows as its metric prints it; "-" where there is none.

    Args:
        name: Of the figure.
        figures: By name.
    """
    return figure_text(figures.get(name), percent=is_percent(name, KNOWN))


def change_cell(
    before: float | None, after: float | None, *, percent: bool, higher: bool = True
) -> Cell:
    """The change of a figure; green where it became better, red where worse.

    Args:
        before: The figure before training.
        after: The figure after training.
        percent: Whether the figures are shown in percent, and their change in points.
        higher: Whether higher is better.
    """
    if before is None or after is None:
        return Cell(NO_FIGURE)
    change = 100 * (after - before) if percent else after - before
    text = f"{change:+.1f}" if percent else f"{change:+.3f}"
    if not text.strip("+-0."):
        return Cell(text.strip("+-"))
    return Cell(text, "good" if (change > 0) is higher else "bad")


def _title(name: str) -> str:
    """A metric's name for people."""
    return name.replace("_", " ").capitalize()


def _two_columns(caption: str, facts: Mapping[str, Any]) -> Table:
    """A table of names and values."""
    rows = [[Cell(str(name)), Cell(str(value), "text")] for name, value in facts.items()]
    return Table(["", ""], rows, caption)
