"""Metrics that read values out of answers: fields of forms, numbers, boxes, options."""

from __future__ import annotations

import json

import pytest

from dsvl_tune.core.errors import UserError
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics import METRICS
from dsvl_tune.evaluation.metrics.box_iou import BoxIoU
from dsvl_tune.evaluation.metrics.choice import Choice
from dsvl_tune.evaluation.metrics.field_values import same_value
from dsvl_tune.evaluation.metrics.json_fields import JSONFields
from dsvl_tune.evaluation.metrics.numeric_error import NumericError, read_number
from dsvl_tune.evaluation.scoring import aggregate_scores


def answered(text: str, *references: str, **fields: object) -> Answer:
    return Answer(
        source="rows.jsonl:7",
        question_type="",
        question="",
        references=references,
        text=text,
        fields=fields,
    )


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ('{"total":1}', '{"total": 1}', 1.0),
        ('{"b": 2, "a": 1}', '{"a": 1, "b": 2}', 1.0),
        ('{"total": 1.0}', '{"total": 1}', 1.0),
        ('{"total": "24.50"}', '{"total": 24.5}', 1.0),
        ('{"total": 25.6}', '{"total": 24.5}', 0.0),
        ('{"year": 2026}', '{"year": 2019}', 0.0),
        ('{"code": "20999"}', '{"code": "20457"}', 0.0),
        ('{"day": "5 March 2024"}', '{"day": "2024-03-05"}', 1.0),
        ('```json\n{"total": 1}\n```', '{"total": 1}', 1.0),
        ("total: 1", '{"total": 1}', 0.0),
        ('{"total": 1', '{"total": 1}', 0.0),
        ('{"a": 1}', '{"a": 1, "b": 2}', 2 / 3),
        ('{"a": 1, "b": 2, "c": 3}', '{"a": 1, "b": 2}', 4 / 5),
        ('{"a": null}', "{}", 1.0),
        ('{"items": [{"price": 1}, {"price": 2}]}', '{"items": [{"price": 1}, {"price": 3}]}', 0.5),
        ('["x"]', '["X "]', 1.0),
    ],
)
def test_json_fields(prediction: str, reference: str, score: float) -> None:
    assert JSONFields().score(prediction, [reference]) == pytest.approx(score)


def test_json_figures() -> None:
    answers = [
        answered('{"total": 1, "date": "2024-03-05"}', '{"total": 1, "date": "2024-03-06"}'),
        answered('{"total": 2, "tax": 3}', '{"total": 2, "date": "2024-03-06"}'),
        answered("I see an invoice.", '{"total": 3}'),
    ]
    figures = aggregate_scores(answers, [JSONFields()])
    assert figures == pytest.approx(
        {
            "json_fields": 2 * 2 / (5 + 4),
            "json_fields_missing": 2 / 5,
            "json_fields_invented": 1 / 4,
            "json_fields_invalid": 1 / 3,
            "json_fields.total": 2 * 2 / (3 + 2),
            "json_fields.date": 0.0,
            "json_fields.tax": 0.0,
        }
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (True, "true", True),
        (True, 1, False),
        ("0123", "123", False),
        ("00123", "0123", False),
        ("1,234.50", 1234.5, True),
        ("1.234,50", 1234.5, True),
        ("0.5", 0.5, True),
        ("12 Main Street", "12  main street", True),
        ("12 Main Street", "12 Main Road", False),
        ("A-100", "A-1OO", False),
        ("03/05/2024", "2024-03-05", True),
        ("03/05/2024", "2024-05-03", True),
        ("03/05/2024", "05/03/2024", False),
        ("25.12.2024", "Dec 25, 2024", True),
        ("31.02.2024", "2024-03-02", False),
        ("May 2024", "May 2025", False),
        ("24.50 EUR", "24.50", False),
    ],
)
def test_values_of_fields(one: object, other: object, same: bool) -> None:
    assert same_value(one, other) is same
    assert same_value(other, one) is same


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12.0),
        ("about $1,234.50.", 1234.5),
        ("1.234,5 EUR", 1234.5),
        ("24,50", 24.5),
        ("-3.5e2", -350.0),
        ("−7", -7.0),
        ("35 %", 35.0),
        (".5", 0.5),
        ("1'000'000", 1_000_000.0),
        ("3 of 4", None),
        ("none", None),
        ("", None),
    ],
)
def test_numbers_as_people_write_them(text: str, number: float | None) -> None:
    assert read_number(text) == number


def test_numeric_error() -> None:
    answers = [
        answered("110", "100"),
        answered("It is 100.", "100"),
        answered("no idea", "100"),
        answered("500", "100"),
        answered("1", "0"),
    ]
    assert NumericError().score_answers(answers) == pytest.approx([0.1, 0.0, 1.0, 1.0, 1.0])
    assert aggregate_scores(answers, [NumericError()]) == pytest.approx(
        {"numeric_error": 3.1 / 5, "numeric_error_exact": 1 / 5, "numeric_error_unread": 1 / 5}
    )


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("<|ref|>dog<|/ref|><|det|>[[0, 0, 10, 10]]<|/det|>", "[[0, 0, 10, 10]]", 1.0),
        ("[[0, 0, 10, 10]]", "[[5, 0, 15, 10]]", 50 / 150),
        ("[0, 0, 10, 10]", "[[0, 0, 10, 10], [20, 20, 30, 30]]", 0.5),
        ("[[0, 0, 10, 10], [20, 20, 30, 30]]", "[[0, 0, 10, 10]]", 0.5),
        ("[[20, 20, 30, 30], [0, 0, 10, 10]]", "[[0, 0, 10, 10], [20, 20, 30, 30]]", 1.0),
        ("[[10, 10, 0, 0]]", "[[0, 0, 10, 10]]", 0.0),
        ("there is none", "[[0, 0, 10, 10]]", 0.0),
    ],
)
def test_boxes(prediction: str, reference: str, score: float) -> None:
    assert BoxIoU().score(prediction, [reference]) == pytest.approx(score)


def test_options_of_a_row() -> None:
    metric = Choice()
    assert metric.score("B", ["B"]) == 1.0
    by_text = answered("the cat", "B", options={"A": "dog", "B": "cat"})
    columns = answered("the cat", "cat", A="dog", B="cat", C="")
    named_nothing = answered("None", "B", options=["NA", "None"])
    assert metric.score_answers([by_text, columns, named_nothing]) == [1.0, 1.0, 1.0]
    figures = aggregate_scores([by_text, answered("neither", "A", options=["x", "y"])], [metric])
    assert figures == {"choice": 0.5, "choice_unread": 0.5}


@pytest.mark.parametrize(
    ("name", "reference", "fields"),
    [
        ("json_fields", "total: 1", {}),
        ("numeric_error", "red", {}),
        ("numeric_error", "3 or 4", {}),
        ("box_iou", "left of the dog", {}),
        ("yes_no", "maybe", {}),
        ("choice", "cat", {}),
        ("choice", "D", {"options": ["x", "y"]}),
        ("choice", "A", {"options": "x, y"}),
    ],
)
def test_references_that_a_metric_cannot_read(
    name: str, reference: str, fields: dict[str, object]
) -> None:
    answer = answered("x", reference, **fields)
    with pytest.raises(UserError, match=f"rows.jsonl:7: {name}: "):
        METRICS[name]().score_answers([answer])


def test_deep_json_is_no_json() -> None:
    assert JSONFields().score("[" * 100_000, [json.dumps({"a": 1})]) == 0.0
