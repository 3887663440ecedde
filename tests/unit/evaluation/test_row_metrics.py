"""Metrics of data that name none, and of rows that name their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsvl_tune.core.errors import UserError
from dsvl_tune.datamodules import InstructDataModule
from dsvl_tune.evaluation.scoring import reference_answers, score_tables, set_figures


def own_data(path: Path, checkpoint: str, rows: list[dict[str, Any]], **options: Any) -> Any:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return InstructDataModule(
        str(path), str(path), checkpoint=checkpoint, system_prompt="", **options
    )


def invoice(number: int) -> dict[str, Any]:
    answer = json.dumps({"total": number, "date": "2024-03-05"})
    return {"question": "Read the invoice as JSON.", "answer": answer}


def test_the_references_choose_and_it_is_said(
    tmp_path: Path, tiny_checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [invoice(number) for number in range(6)]
    data = own_data(tmp_path / "rows.jsonl", tiny_checkpoint, rows)
    assert [metric.name for metric in data.metrics] == ["json_fields"]  # also before setup
    assert "metrics: json_fields (the references are JSON)" in capsys.readouterr().out
    data.setup("fit")
    figures = set_figures(score_tables(reference_answers(data.rows("validation")), data.metrics))
    assert figures["json_fields"] == figures["json_fields.total"] == 1.0


def test_a_row_names_its_metric(tmp_path: Path, tiny_checkpoint: str) -> None:
    rows = [
        invoice(1),
        invoice(2),
        {"question": "How many items?", "answer": "3", "metric": ["exact_match", "numeric_error"]},
        {"question": "Which?", "answer": "B", "options": ["x", "y"], "metric": "choice"},
    ]
    data = own_data(tmp_path / "rows.jsonl", tiny_checkpoint, rows)
    data.setup("fit")
    tables = score_tables(reference_answers(data.rows("validation")), data.metrics)
    assert {table.metric.name: len(table.answers) for table in tables} == {
        "json_fields": 2,
        "exact_match": 1,
        "numeric_error": 1,
        "choice": 1,
    }


@pytest.mark.parametrize(
    ("row", "options", "named"),
    [
        ({"question": "?", "answer": "red"}, {"metrics": ["json_fields"]}, "expected JSON"),
        ({"question": "?", "answer": "red", "metric": "anlss"}, {}, "'anls'"),
        ({"question": "?", "answer": "red", "metric": 5}, {}, "metric: 5"),
    ],
)
def test_a_bad_reference_ends_the_run_before_it_begins(
    tmp_path: Path,
    tiny_checkpoint: str,
    row: dict[str, Any],
    options: dict[str, Any],
    named: str,
) -> None:
    data = own_data(tmp_path / "rows.jsonl", tiny_checkpoint, [invoice(1), row], **options)
    with pytest.raises(UserError, match="rows.jsonl.*2") as raised:
        data.setup("fit")
    assert named in str(raised.value)
