"""What the model card of a merged run says of the run: results, samples, curves."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from dsvl_tune.core.checkpoint.hub import public_name
from dsvl_tune.core.checkpoint.weight_headers import read_json
from dsvl_tune.core.terminal import escape, shorten
from dsvl_tune.evaluation.figures_table import NO_FIGURE, figure_text, interval_text, is_percent
from dsvl_tune.evaluation.metrics import METRICS
from dsvl_tune.evaluation.statistics import Interval
from dsvl_tune.evaluation.stored_answers import read_answers
from dsvl_tune.export.audit import AUDIT
from dsvl_tune.export.model_card import TASK
from dsvl_tune.export.write_settings import REPORT

CURVES = "curves.png"
"""In the folder of a merged checkpoint, next to its card."""
SAMPLE_CHARACTERS = 200
"""Longest text of a sample."""
KNOWN = [metric() for metric in METRICS.values()]


@dataclass(frozen=True)
class CardOptions:
    """What the card of a merged run shows.

    Attributes:
        samples: Number of held-out questions with their answers.
        paths: Whether the audit has whole paths.
        curves: Picture of the training curves as PNG; None shows none.
    """

    samples: int = 4
    paths: bool = False
    curves: bytes | None = None


def summary_sentence(run: Path, base: str) -> str:
    """Say in a sentence or two what was trained.

    Args:
        run: Folder of the run.
        base: Name of the base checkpoint.
    """
    plan = read_json(run / "plan.json")
    trained = [
        f"{part} ({'LoRA, rank ' + str(how.get('rank')) if how['mode'] == 'lora' else 'full'})"
        for part, how in plan.items()
        if how["mode"] != "frozen"
    ]
    return (
        f"`{public_name(base)}`, fine-tuned with dsvl-tune. Trained: {', '.join(trained)}; "
        "everything else is the base's, bit for bit."
    )


def run_sections(run: Path, report: Mapping[str, Any], options: CardOptions) -> dict[str, str]:
    """Sections on a run: results, samples, curves, and where the details are.

    Args:
        run: Folder of the run.
        report: Content of `merge_report.json`.
        options: What the card shows.
    """
    sections = {}
    if report["checkpoint"]:
        sections["Results"] = f"Not measured for this checkpoint, {report['checkpoint']}."
    else:
        sections["Results"] = results_text(read_json(run / "summary.json"))
        samples = samples_text(run / "predictions", options.samples)
        if samples:
            sections["Samples"] = samples
    if options.curves:
        sections["Curves"] = f"![training curves]({CURVES})"
    checked = "This checkpoint was not loaded again after it was written"
    if report["rows"]:
        checked = (
            f"This checkpoint was loaded again and compared with base and adapter on "
            f"{report['rows']} held-out questions ({100 * report['greedy_agreement']:.1f} % equal "
            "answers)"
        )
    sections["Details"] = (
        f"{checked}: `{REPORT}`. What it was trained on, plan, hashes and versions: `{AUDIT}`."
    )
    return sections


def results_text(summary: Mapping[str, Any]) -> str:
    """A table of every figure before and after training, with intervals.

    Args:
        summary: Content of `summary.json`.
    """
    rows = []
    for name, after in summary["after"].items():
        percent = _is_percent(name, summary)
        before, constant = (one.get(name) for one in (summary["before"], _baseline(summary)))
        interval = summary.get("intervals", {}).get(name)
        cells = [
            name,
            figure_text(before, percent=percent),
            figure_text(after, percent=percent),
            interval_text(Interval(*interval), percent=percent) if interval else NO_FIGURE,
            figure_text(constant, percent=percent),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    questions = summary.get("questions", {})
    counted = ", ".join(f"{name}: {count:,} questions" for name, count in questions.items())
    return "\n".join(
        [
            f"On held-out rows{f' ({counted})' if counted else ''}, before and after training.",
            "",
            "| | before | after | 95 % interval | best constant answer |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def eval_results(run: Path, report: Mapping[str, Any]) -> list[EvalResult]:
    """The figures on the held-out test rows after training, for the hub's index.

    Args:
        run: Folder of the run.
        report: Content of `merge_report.json`; a checkpoint that is not the run's result has none.
    """
    if report["checkpoint"]:
        return []
    summary = read_json(run / "summary.json")
    return [
        EvalResult(
            task_type=TASK,
            dataset_type="custom",
            dataset_name="held-out test rows",
            metric_type=name,
            metric_value=value,
        )
        for name, value in summary["after"].items()
        if "/" not in name
    ]


def samples_text(predictions: Path, number: int) -> str:
    """A table of held-out questions with their answers, evenly spaced over the test rows.

    Args:
        predictions: Folder with the answers before and after training.
        number: Of questions.

    Returns:
        The table; "" without answers or questions to show.
    """
    files = [predictions / f"test_{when}.jsonl" for when in ("before", "after")]
    if number < 1 or not all(path.is_file() for path in files):
        return ""
    before, after = (read_answers(path) for path in files)
    pairs = list(zip(before, after, strict=False))
    chosen = [pairs[place * len(pairs) // number] for place in range(min(number, len(pairs)))]
    rows = [
        [
            str(new.row.get("question", "")),
            " or ".join(new.answer.references),
            old.answer.text,
            new.answer.text,
        ]
        for old, new in chosen
    ]
    return "\n".join(
        [
            "Held-out questions, evenly spaced over the test rows: not chosen by their answers.",
            "",
            "| question | reference | before | after |",
            "|---|---|---|---|",
            *(f"| {' | '.join(map(_cell, row))} |" for row in rows),
        ]
    )


def _cell(text: str) -> str:
    """A text as a cell of a Markdown table: one line, shown as it is."""
    plain = html.escape(escape(shorten(" ".join(text.split()), SAMPLE_CHARACTERS)), quote=False)
    for character in "\\`*_[]|":
        plain = plain.replace(character, f"\\{character}")
    return plain


def _baseline(summary: Mapping[str, Any]) -> Mapping[str, float]:
    """The majority baseline, which runs of versions before 0.2 call "floor"."""
    baseline: Mapping[str, float] = summary.get("majority_baseline", summary.get("floor", {}))
    return baseline


def _is_percent(name: str, summary: Mapping[str, Any]) -> bool:
    """Whether a figure is printed in percent; those of retention sets begin with the set."""
    first, _, rest = name.partition("/")
    return is_percent(rest if first in summary.get("questions", {}) and rest else name, KNOWN)
