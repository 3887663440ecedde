"""The files of a benchmark's results: ours, VLMEvalKit's, and the official submission."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dsvl_tune.core.storage.files import atomic_write, write_json, write_json_lines
from dsvl_tune.core.storage.outputs import check_output_file
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.benchmarks.base import Answered, Benchmark
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow

SHEET_CHARACTERS = 32_767
"""Longest text of a cell in Excel's format; VLMEvalKit's files have the same limit."""


def check_results_folder(folder: Path, benchmark: Benchmark, inputs: Sequence[Path]) -> None:
    """Check that the results of a benchmark destroy nothing.

    Args:
        folder: of the results.
        benchmark: the benchmark.
        inputs: files that it is read from.

    Raises:
        UserError: a file of that name is an input, or was not written by `write_results`.
    """
    if folder.is_dir():
        report = folder / f"{benchmark.name}.json"
        check_output_file(report, "--out", lambda path: _is_report(path, benchmark), inputs)


def _is_report(path: Path, benchmark: Benchmark) -> bool:
    """Whether a file is an earlier report of a benchmark."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("benchmark") == benchmark.name


def write_results(
    folder: Path,
    benchmark: Benchmark,
    rows: Sequence[BenchmarkRow],
    answers: Sequence[Answer],
    report: dict[str, Any],
) -> None:
    """Write the files of a benchmark's results, but for those of its answers.

    Args:
        folder: of the results.
        benchmark: the benchmark.
        rows: its rows.
        answers: to them.
        report: content of NAME.json; its `model` is in the names of VLMEvalKit's files.
    """
    answered = [(row, answer.text) for row, answer in zip(rows, answers, strict=True)]
    write_vlmevalkit(folder / f"{Path(report['model']).name}_{benchmark.dataset}.tsv", answered)
    if benchmark.submission is not None:
        write_submission(folder, benchmark, answered)
    write_json(folder / f"{benchmark.name}.json", report)


def answer_lines(
    benchmark: Benchmark, rows: Sequence[BenchmarkRow], answers: Sequence[Answer]
) -> list[dict[str, Any]]:
    """The lines of a file of answers.

    Args:
        benchmark: the benchmark.
        rows: its rows.
        answers: to them.
    """
    return [
        {"index": row.index, **answer.to_json(), "references": list(benchmark.accepted(row))}
        for row, answer in zip(rows, answers, strict=True)
    ]


def write_submission(folder: Path, benchmark: Benchmark, answered: Answered) -> None:
    """Write the official submission file."""
    assert benchmark.submission is not None
    content = benchmark.submission(answered)
    name = f"{benchmark.name}_submission"
    if benchmark.submission_lines:
        write_json_lines(folder / f"{name}.jsonl", content)
    else:
        write_json(folder / f"{name}.json", content)


def write_vlmevalkit(path: Path, answered: Answered) -> None:
    """Write results as VLMEvalKit reads them: a TSV, and with openpyxl an xlsx file.

    Args:
        path: of the TSV.
        answered: rows and answers.
    """
    columns = list(dict.fromkeys(column for row, _ in answered for column in row.cells))
    table = [["index", *columns, "prediction"]]
    table += [
        [row.index, *(row.cells.get(column, "") for column in columns), text]
        for row, text in answered
    ]

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows(table)

    atomic_write(path, write)
    if has_openpyxl():
        atomic_write(path.with_suffix(".xlsx"), lambda partial: _write_sheet(partial, table))


def has_openpyxl() -> bool:
    """Whether xlsx files can be written."""
    return find_spec("openpyxl") is not None


def _write_sheet(path: Path, table: Sequence[Sequence[str]]) -> None:
    """Write a table as an xlsx file; every cell is text, also one that looks like a formula."""
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    for row in table:
        cells = [
            WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("", text)[:SHEET_CHARACTERS])
            for text in row
        ]
        for cell in cells:
            cell.data_type = "s"
        sheet.append(cells)
    with path.open("wb") as file:
        book.save(file)
