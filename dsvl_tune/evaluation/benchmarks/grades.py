"""The figures of MM-Vet from the grades that a judge model gave elsewhere.

Aggregation: yuweihao/MM-Vet, `mm-vet_evaluator.ipynb`: the mean grade of all questions, of those
that need a capability, and of those that need just one combination of capabilities. VLMEvalKit
counts a question that needs a single capability twice among those with it; here it counts once.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.text_table import format_table
from dsvl_tune.data.readers.parse import parse_json
from dsvl_tune.evaluation.benchmarks.mmvet import PREFIX
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow


def read_grades(path: Path) -> dict[str, float]:
    """The grade (0..1) of each question by its index.

    Args:
        path: what the official evaluator writes (JSON: id to an object with `score`, a number or
            one for each run), or VLMEvalKit (TSV or xlsx with `index` and `score`).

    Raises:
        UserError: the file cannot be read, or a grade is none.
    """
    readers = {".json": _read_json, ".tsv": _read_tsv, ".xlsx": _read_sheet}
    read = readers.get(path.suffix)
    if read is None:
        raise UserError(f"--grades {path}: expected a file that ends in {', '.join(readers)}.")
    try:
        records = read(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--grades {path}: could not be read ({error}).") from None
    return {
        str(index).removeprefix(PREFIX): _grade(value, f"{path}, question {str(index)[:40]}")
        for index, value in records.items()
    }


def _read_json(path: Path) -> dict[str, Any]:
    """Scores of the official evaluator's file."""
    content = parse_json(path.read_bytes(), str(path))
    if not isinstance(content, dict):
        raise UserError(f"--grades {path}: not a JSON object. Expected grades by question.")
    return {
        index: one.get("score") if isinstance(one, dict) else one for index, one in content.items()
    }


def _read_tsv(path: Path) -> dict[str, Any]:
    """Scores of VLMEvalKit's TSV file."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return _columns(list(csv.DictReader(file, delimiter="\t")), path)


def _read_sheet(path: Path) -> dict[str, Any]:
    """Scores of VLMEvalKit's xlsx file.

    Raises:
        UserError: openpyxl is not installed, or the file is none.
    """
    from zipfile import BadZipFile

    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise UserError(
            f"--grades {path}: needs openpyxl. Install it: pip install 'dsvl-tune[xlsx]'."
        ) from error
    try:
        header, *lines = load_workbook(path, read_only=True).active.values
    except (BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"--grades {path}: no xlsx file that can be read ({error}).") from None
    return _columns([dict(zip(header, line, strict=False)) for line in lines], path)


def _columns(records: Sequence[Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """Scores by index of the records of a table."""
    if not records or not {"index", "score"} <= records[0].keys():
        raise UserError(f"--grades {path}: expected a table with the columns index and score.")
    return {str(record["index"]): record["score"] for record in records}


def _grade(value: Any, source: str) -> float:
    """A grade, the mean over several runs.

    Raises:
        UserError: it is none.
    """
    runs = value if isinstance(value, list) and value else [value]
    try:
        grades = [float(one) for one in runs]
    except (TypeError, ValueError):
        grades = [-1.0]
    if not all(0 <= grade <= 1 for grade in grades):
        raise UserError(f"--grades {source}: score is {str(value)[:80]!r}. Expected 0 to 1.")
    return sum(grades) / len(grades)


def grade_report(
    rows: Sequence[BenchmarkRow], grades: Mapping[str, float], source: str
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean grades (0..1) and numbers of questions: overall, by capability and by combination.

    Args:
        rows: of MM-Vet.
        grades: of each, by index.
        source: of the grades, for the error.

    Raises:
        UserError: a question has no grade, or there are grades of other questions.
    """
    _check_complete(rows, grades, source)
    groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        needed = row.text("category").split(",")
        groups["overall"]["all"].append(grades[row.index])
        groups["combination"]["_".join(needed)].append(grades[row.index])
        for capability in needed:
            groups["capability"][capability].append(grades[row.index])
    return {
        name: {
            value: {"grade": sum(found) / len(found), "questions": len(found)}
            for value, found in of_name.items()
        }
        for name, of_name in groups.items()
    }


def _check_complete(rows: Sequence[BenchmarkRow], grades: Mapping[str, float], source: str) -> None:
    """Raise unless there is one grade of each question, and none of others."""
    lacking = [row.index for row in rows if row.index not in grades]
    others = [index for index in grades if index not in {row.index for row in rows}]
    if lacking or others:
        what = f"no grade of question {lacking[0]}" if lacking else f"a question {others[0]}"
        raise UserError(f"--grades {source}: {what}. Expected one grade of each question.")


def is_grade_report(path: Path) -> bool:
    """Whether a file has a report of grades."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(content, dict) and {"overall", "capability"} <= content.keys()


def grades_table(report: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A line for each mean, times 100 as papers give it.

    Args:
        report: from `grade_report`.
    """
    lines = [
        [name, value, f"{100 * one['grade']:.1f}", str(one["questions"])]
        for name, of_name in report.items()
        for value, one in of_name.items()
    ]
    return format_table(["MM-Vet, judged", "questions that need", "grade", "questions"], lines, 2)
