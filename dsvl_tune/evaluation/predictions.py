"""The file that `dsvl-tune predict` writes: every answer, in the order of the rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import write_json_lines
from dsvl_tune.core.storage.outputs import check_output_file
from dsvl_tune.evaluation.answers import Answer


def answers_file(out: Path | None, run: Path | None, base: Path) -> Path:
    """Path of the answers, decided before the work begins.

    Args:
        out: what the user gave.
        run: folder of the recipe's run, if there is one.
        base: folder that such a run would have.

    Raises:
        UserError: there is neither a file nor a run, or the file cannot be created there.
    """
    if out is None and run is None:
        raise UserError(
            f"predict: there is no run {base} to keep the answers in. Give --out answers.jsonl, "
            "or --config runs/NAME/config.yaml of a run."
        )
    if out is None:
        assert run is not None
        return run / "predictions" / "predict.jsonl"
    check_output_file(out, "--out", _holds_answers)
    return out


def check_not_asked(out: Path, rows: Any) -> None:
    """Raise if the answers would replace a file of the questions, which may look like answers.

    Args:
        out: file of the answers.
        rows: the questions, opened; of a mixture, with its `sources`.

    Raises:
        UserError: they would.
    """
    inputs = [file.path for file in rows.files if hasattr(file, "path")]
    check_output_file(out, "--out", _holds_answers, inputs)
    for source in getattr(rows, "sources", ()):
        check_not_asked(out, source.rows)


def _holds_answers(path: Path) -> bool:
    """Whether a file was written by `write_answers`: its first line is an answer."""
    try:
        with path.open(encoding="utf-8") as file:
            first = json.loads(file.readline() or "{}")
    except ValueError:
        return False
    return isinstance(first, dict) and {"source", "answer", "complete"} <= first.keys()


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """Write one JSON line an answer; the file is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, [answer.to_json() for answer in answers])


def print_answers_summary(path: Path, answers: Sequence[Answer], weights: str | Path) -> None:
    """Print how many answers of which weights are in a file, and how many were cut off."""
    print(f"{len(answers)} answers of {weights}: {path}")
    cut = sum(not answer.complete for answer in answers)
    if cut:
        print(f"{cut} of them were cut off: raise model.max_new_tokens for complete answers")
