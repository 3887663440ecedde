"""Tables of a report: results, what was trained on what, differences between runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsvl_tune.core.files import format_bytes
from dsvl_tune.report.run_record import WHEN, Question, RunRecord

MOST_CHOICES = 12
"""Different references up to which a table shows which answer was given for which."""
OTHER = "(other)"
"""Column of the answers that no question accepts."""
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
    """Figures before and after training: a table for each held-out set and metric.

    Args:
        run: A finished run.
    """
    return [
        _result_table(run, name, metric)
        for name, questions in run.questions.items()
        for metric in metric_names(questions)
    ]


def metric_names(questions: Sequence[Question]) -> list[str]:
    """The metrics that scored some questions, in the order in which they were asked for.

    Args:
        questions: Of one set.
    """
    names = (name for question in questions for name in question.scores.get("after", {}))
    return list(dict.fromkeys(names))


def _result_table(run: RunRecord, name: str, metric: str) -> Table:
    """Figures of one set and metric: all questions, then each question type."""
    asked = Counter(question.question_type for question in run.questions[name])
    prefix = metric if name == "test" else f"{name}/{metric}"
    columns = [run.summary.get(when, {}) for when in WHEN]
    baseline = run.summary.get("majority_baseline", {})
    rows = []
    for figure in [prefix, *(key for key in columns[-1] if key.startswith(f"{prefix}/"))]:
        question_type = figure.removeprefix(prefix).removeprefix("/")
        before, after = (column.get(figure) for column in columns)
        count = asked[question_type] if question_type else asked.total()
        rows.append(
            [
                Cell(question_type or "all questions"),
                Cell(f"{count:,}"),
                Cell(percent(before)),
                Cell(percent(after)),
                change_cell(before, after),
                Cell(percent(baseline.get(figure))),
            ]
        )
    where = "held-out test rows" if name == "test" else f"{name}, outside the trained domain"
    caption = f"{_title(metric)}: {where}"
    header = ["", "questions", "before", "after", "change", "majority baseline"]
    return Table(header, rows, caption)


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
    given = flat_settings(data.get("init_args", {}))
    return _two_columns("Data", {"class": data.get("class_path", "-"), **given})


def settings_differences(runs: Sequence[RunRecord]) -> Table:
    """The settings in which runs differ, a column for each run.

    Args:
        runs: At least two.
    """
    flat = [flat_settings(run.settings) for run in runs]
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
        best = max((figure for figure in figures if figure is not None), default=None)
        cells = [
            Cell(percent(figure), "right" if figure is not None and figure == best else "")
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


def percent(figure: float | None) -> str:
    """A figure in percent; "-" where there is none."""
    return "-" if figure is None else f"{100 * figure:.1f} %"


def change_cell(before: float | None, after: float | None) -> Cell:
    """The change of a figure in points; green where it rose, red where it fell."""
    if before is None or after is None:
        return Cell("-")
    points = 100 * (after - before)
    if abs(points) < 0.05:
        return Cell("0.0")
    return Cell(f"{points:+.1f}", "good" if points > 0 else "bad")


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into values by dotted key.

    Args:
        settings: As YAML holds them.
        prefix: Of every key.
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _title(name: str) -> str:
    """A metric's name for people."""
    return name.replace("_", " ").capitalize()


def _two_columns(caption: str, facts: Mapping[str, Any]) -> Table:
    """A table of names and values."""
    rows = [[Cell(str(name)), Cell(str(value), "text")] for name, value in facts.items()]
    return Table(["", ""], rows, caption)
