"""Read what a run has left in its folder: settings, curves, figures and answers."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dsvl_tune.core.errors import UserError
from dsvl_tune.evaluation.stored_answers import read_answers
from dsvl_tune.evaluation.text_task_report import read_reports, weight_sums

Curve = list[tuple[int, float]]
"""(optimizer step, value) in the order of the steps."""
WHEN = ("before", "after")


@dataclass
class Question:
    """A held-out question, answered before and after training.

    Attributes:
        source: File and row, or seed.
        question_type: "" without types.
        text: The question itself.
        references: Every accepted answer.
        answers: Generated text by "before" and "after".
        scores: Score by name of the metric, by "before" and "after".
    """

    source: str
    question_type: str
    text: str
    references: tuple[str, ...]
    answers: dict[str, str] = field(default_factory=dict)
    scores: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def change(self, metric: str) -> float:
        """Score after minus score before; 0 for a question that was not answered twice."""
        before, after = (self.scores.get(when, {}).get(metric) for when in WHEN)
        return 0.0 if before is None or after is None else after - before


@dataclass(frozen=True)
class RunRecord:
    """A finished run.

    Attributes:
        folder: Run folder.
        settings: Content of `config.yaml`.
        manifest: Content of `manifest.json`.
        plan: Content of `plan.json`.
        summary: Content of `summary.json`.
        curves: Logged values by name.
        questions: Held-out questions by set: "test", then the retention sets.
        text_tasks: Reports of text tasks in the run folder or a folder in it, by "before" for the
            base and "after" for the base with the run's adapter.
    """

    folder: Path
    settings: dict[str, Any]
    manifest: dict[str, Any]
    plan: dict[str, Any]
    summary: dict[str, Any]
    curves: dict[str, Curve]
    questions: dict[str, list[Question]]
    text_tasks: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.folder.resolve().name


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    Args:
        folder: Of a run that is finished.

    Raises:
        UserError: It is no run folder, the run is not finished, or a file of it is damaged.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: no config.yaml. Give the folder of a run (runs/NAME).")
    if not (folder / "summary.json").is_file():
        raise UserError(
            f"{folder}: no summary.json: the run is not finished. Start it again to resume it."
        )
    settings = read_object(folder / "config.yaml")
    return RunRecord(
        folder,
        settings=settings,
        manifest=read_object(folder / "manifest.json"),
        plan=read_object(folder / "plan.json"),
        summary=read_object(folder / "summary.json"),
        curves=read_curves(folder / "metrics"),
        questions=read_questions(folder / "predictions"),
        text_tasks=read_text_tasks(folder, settings),
    )


def read_text_tasks(folder: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The reports of text tasks that are of a run's base or of its adapter.

    Args:
        folder: Of the run.
        settings: Content of its `config.yaml`.
    """
    own, base = weight_sums(folder / "adapter"), settings.get("model", {}).get("checkpoint")
    found = {}
    for report in read_reports(folder):
        if report["model"] == base and report["adapter"] is None:
            found["before"] = report
        elif report["model"] == base and report.get("adapter_sha256") == own:
            found["after"] = report
    return found


def read_curves(folder: Path) -> dict[str, Curve]:
    """Read the logged values of a run; where a resumed run repeated a step, the later value.

    Args:
        folder: `metrics/` of the run, with a `version_N/metrics.csv` for each time it was started.

    Returns:
        The values by name, in the order of their first appearance.
    """
    by_step: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("version_*/metrics.csv"), key=_version):
        for line, row in _csv_rows(path):
            try:
                step = int(row["step"])
                values = {name: float(text) for name, text in row.items() if text}
            except (KeyError, TypeError, ValueError):
                raise UserError(f"{path}, line {line}: is not a line of logged values.") from None
            for name, value in values.items():
                if name not in ("step", "epoch") and math.isfinite(value):
                    by_step.setdefault(name, {})[step] = value
    return {name: sorted(values.items()) for name, values in by_step.items()}


def read_questions(folder: Path) -> dict[str, list[Question]]:
    """Read the held-out questions of a run with their answers before and after training.

    Args:
        folder: `predictions/` of the run, with SET_before.jsonl and SET_after.jsonl.

    Returns:
        The questions of each set, in the order of the set; "test" comes first.
    """
    names = {path.name.rpartition("_")[0] for path in folder.glob("*_after.jsonl")}
    sets: dict[str, list[Question]] = {}
    for name in sorted(names, key=lambda name: (name != "test", name)):
        asked: dict[tuple[str, str, int], Question] = {}
        for when in WHEN:
            _add_answers(asked, folder / f"{name}_{when}.jsonl", when)
        sets[name] = list(asked.values())
    return sets


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON or YAML file that holds an object.

    Args:
        path: The file.

    Returns:
        The object; {} if there is no such file.

    Raises:
        UserError: The file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is damaged: expected an object.")
    return content


def _add_answers(asked: dict[tuple[str, str, int], Question], path: Path, when: str) -> None:
    """Add the answers of a file to the questions that it answers."""
    if not path.is_file() or not path.stat().st_size:  # a set without rows
        return
    repeated: dict[tuple[str, str], int] = {}
    for number, stored in enumerate(read_answers(path), start=1):
        answer = stored.answer
        source = str(stored.row.get("source", answer.source))
        place = repeated.get((source, answer.question), 0)  # a row may ask a question twice
        repeated[source, answer.question] = place + 1
        question = asked.setdefault(
            (source, answer.question, place),
            Question(source, answer.question_type, answer.question, answer.references),
        )
        question.answers[when] = answer.text
        question.scores[when] = _scores(stored.row, f"{path}:{number}")


def _scores(row: Mapping[str, Any], place: str) -> dict[str, float]:
    """Score by name of the metric that a line of answers has."""
    try:
        return {name: float(score) for name, score in row["scores"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{place}: scores: expected numbers by name of the metric.") from None


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV file with their line numbers."""
    with path.open(encoding="utf-8", newline="") as file:
        yield from enumerate(csv.DictReader(file), start=2)


def _version(path: Path) -> int:
    """Number N of `version_N/metrics.csv`."""
    number = path.parent.name.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0
