"""The report of a run, or of several runs side by side, as one HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dsvl_tune.report.pages import render
from dsvl_tune.report.plots import Plot, plots_of, svg, write_png
from dsvl_tune.report.run_record import WHEN, Question, RunRecord
from dsvl_tune.report.tables import (
    Table,
    confusion_table,
    data_table,
    facts_table,
    metric_names,
    plan_table,
    results_side_by_side,
    results_tables,
    settings_differences,
    text_tasks_table,
)

GENERATOR = "dsvl-tune report"
"""Marks a page as one of ours, which may be replaced."""
MOST_SAMPLES = 100
"""Questions of a set that a page shows: with their pictures, it stays below some 5 MB."""

Pictures = Mapping[str, Sequence[str]]
"""URLs that hold the images of a row, by the row's source."""


@dataclass
class Section:
    """A section of the page.

    Attributes:
        title: Heading.
        note: A sentence below it.
        tables: In order.
        plots: After the tables.
        samples: Questions as cards, after the plots.
        commands: Command lines that give the numbers again.
    """

    title: str
    note: str = ""
    tables: list[Table] = field(default_factory=list)
    plots: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Anchor in the page."""
        return self.title.lower().replace(" ", "-").replace(",", "")


def run_report(run: RunRecord, pictures: Pictures) -> str:
    """The page of one run.

    Args:
        run: A finished run.
        pictures: Of the rows that `shown_questions` names; rows without are shown without.
    """
    folder = shlex.quote(str(run.folder))
    config = shlex.quote(str(run.folder / "config.yaml"))
    results = Section(
        "Results",
        note="The figure of all questions is the mean over their types.",
        tables=results_tables(run),
        commands=[f"dsvl-tune test --config {config} --ckpt_path best"],
    )
    curves = Section("Curves", plots=_drawn(plots_of([run])))
    made_of = Section(
        "How it was trained",
        tables=[plan_table(run), facts_table(run), data_table(run)],
        commands=[f"dsvl-tune fit --config {config}", f"dsvl-tune merge {folder}"],
    )
    text_tasks = Section(
        "Text tasks",
        note="Language ability before and after training, without images.",
        tables=[text_tasks_table(run)],
        commands=[shlex.join(report["command"]) for report in run.text_tasks.values()],
    )
    sections = [results, text_tasks, curves, *_sample_sections(run, pictures), made_of]
    return _page(f"Run {run.name}", "Fine-tuned with dsvl-tune.", sections)


def comparison_report(runs: Sequence[RunRecord], pictures: Pictures) -> str:
    """The page of several runs side by side.

    Args:
        runs: At least two finished runs.
        pictures: Of the rows that `shown_questions` names.
    """
    sections = [
        Section("Results", tables=[results_side_by_side(runs)]),
        Section("Settings that differ", tables=[settings_differences(runs)]),
        Section("Curves", plots=_drawn(plots_of(runs))),
    ]
    differing = differing_questions(runs)
    if differing:
        cards = [_comparison_card(key, runs, pictures) for key in differing]
        note = "Questions of the test rows that all runs answered, where the answers differ."
        sections.append(Section("Answers that differ", note=note, samples=cards))
    names = ", ".join(run.name for run in runs)
    return _page(f"{len(runs)} runs", names, sections)


def write_plots(runs: Sequence[RunRecord], folder: Path) -> list[Path]:
    """Write the plots of a report as PNG files.

    Args:
        runs: Of the report.
        folder: Where to write; it exists.
    """
    return [write_png(plot, folder) for plot in plots_of(runs)]


def shown_questions(run: RunRecord) -> dict[str, list[Question]]:
    """The questions of each set that the page of a run shows: those that changed most, then worst.

    Args:
        run: A finished run.
    """
    shown = {}
    for name, questions in run.questions.items():
        if not any(question.text for question in questions):
            continue  # windows of a text, which are read and not answered
        ranked = sorted(questions, key=lambda q: (-abs(_change(q)), _after(q)))
        shown[name] = ranked[:MOST_SAMPLES]
    return shown


def differing_questions(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Test questions that all runs answered after training, and not all in the same way.

    Args:
        runs: At least two.

    Returns:
        Source and text of each question, at most `MOST_SAMPLES`.
    """
    answers = [_answers_after(run) for run in runs]
    common = [key for key in answers[0] if all(key in of_run for of_run in answers[1:])]
    differing = [key for key in common if len({of_run[key] for of_run in answers}) > 1]
    return differing[:MOST_SAMPLES]


def _page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Render the sections that have something to show."""
    shown = [s for s in sections if s.samples or s.plots or any(t.rows for t in s.tables)]
    return render(
        "run_report.html", generator=GENERATOR, title=title, subtitle=subtitle, sections=shown
    )


def _drawn(plots: Iterable[Plot]) -> list[dict[str, Any]]:
    """Draw plots for the template."""
    return [
        {"title": plot.title, "svg": Markup(svg(plot)), "left_out": plot.left_out} for plot in plots
    ]


def _sample_sections(run: RunRecord, pictures: Pictures) -> list[Section]:
    """A section for each held-out set, with its confusion table and its questions."""
    sections = []
    for name, questions in shown_questions(run).items():
        of_all = run.questions[name]
        confusion = confusion_table(of_all)
        note = (
            ""
            if len(questions) == len(of_all)
            else (
                f"{len(questions):,} of {len(of_all):,}: those that changed most, then the worst."
            )
        )
        sections.append(
            Section(
                "Answers" if name == "test" else f"Answers, {name}",
                note=note,
                tables=[confusion] if confusion else [],
                samples=[_card(question, pictures) for question in questions],
                commands=_score_commands(run, name),
            )
        )
    return sections


def _score_commands(run: RunRecord, name: str) -> list[str]:
    """The command lines that score the answers of a set again, without a model."""
    options = " ".join(f"--metric {metric}" for metric in metric_names(run.questions[name]))
    files = [run.folder / "predictions" / f"{name}_{when}.jsonl" for when in WHEN]
    return [f"dsvl-tune score {shlex.quote(str(file))} {options}" for file in files]


def _card(question: Question, pictures: Pictures) -> dict[str, Any]:
    """A question with its answers before and after, for the template."""
    rows = [{"name": "reference", "text": " | ".join(question.references), "css": ""}]
    for when in WHEN:
        if when in question.answers:
            css = _score_css(question.scores.get(when, {}))
            rows.append({"name": when, "text": question.answers[when], "css": css})
    return {
        "source": question.source,
        "question_type": question.question_type,
        "question": question.text,
        "pictures": list(pictures.get(question.source, ())),
        "rows": rows,
        "change": f"{_change(question):.6g}",
        "after": f"{_after(question):.6g}",
        "differ": int(len(set(question.answers.values())) > 1),
    }


def _comparison_card(
    key: tuple[str, str], runs: Sequence[RunRecord], pictures: Pictures
) -> dict[str, Any]:
    """A question with the answers of several runs, for the template."""
    questions = [_by_key(run)[key] for run in runs]
    card = _card(questions[0], pictures)
    card["rows"] = card["rows"][:1] + [
        {
            "name": run.name,
            "text": question.answers["after"],
            "css": _score_css(question.scores.get("after", {})),
        }
        for run, question in zip(runs, questions, strict=True)
    ]
    first, last = (_after(question) for question in (questions[0], questions[-1]))
    return {**card, "change": f"{last - first:.6g}", "after": f"{last:.6g}", "differ": 1}


def _by_key(run: RunRecord) -> dict[tuple[str, str], Question]:
    """The test questions of a run that were answered after training."""
    return {
        (question.source, question.text): question
        for question in run.questions.get("test", ())
        if "after" in question.answers
    }


def _answers_after(run: RunRecord) -> dict[tuple[str, str], str]:
    """The answers of a run after training, by source and text of the question."""
    return {key: question.answers["after"] for key, question in _by_key(run).items()}


def _first_metric(question: Question) -> str:
    """The metric that orders the questions: the first one that scored."""
    return next((name for scores in question.scores.values() for name in scores), "")


def _change(question: Question) -> float:
    """Change of the first metric."""
    return question.change(_first_metric(question))


def _after(question: Question) -> float:
    """Score of the first metric after training; 0 without one."""
    return question.scores.get("after", {}).get(_first_metric(question), 0.0)


def _score_css(scores: Mapping[str, float]) -> str:
    """Green for a full score in the first metric, red for none."""
    score = next(iter(scores.values()), None)
    if score is None:
        return ""
    return "good" if score >= 1 else "bad" if score <= 0 else ""
