"""Which metrics data get that name none."""

from __future__ import annotations

import pytest

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.default_metrics import default_metrics
from dsvl_tune.evaluation.metrics import METRICS, find_metrics
from dsvl_tune.evaluation.scoring import aggregate_scores


@pytest.mark.parametrize(
    ("references", "names"),
    [
        ([['{"total": 1}'], ['{"total": 2, "items": []}']], ("json_fields",)),
        ([["[[1, 2, 3, 4]]"], ["<|det|>[[5, 6, 7, 8]]<|/det|>"]], ("box_iou",)),
        ([["Yes"], ["no"]], ("yes_no",)),
        ([["A"], ["C"]], ("choice",)),
        ([["12"], ["$1,200.50"], ["35 %"]], ("numeric_error",)),
        ([["red"], ["blue"]] * 20, ("exact_match",)),
        ([["red"] * 10], ("vqa_accuracy",)),
        ([["Philip Morris"], ["1 March 2020"]], ("anls", "exact_match")),
        ([["A long sentence that describes all that one can see in a picture."]], ("rouge_l",)),
        ([[], ["12"]], ("numeric_error",)),
        ([["12.05.2024"], ["3.1.2"]], ("anls", "exact_match")),
        ([[]], ()),
        ([], ()),
    ],
)
def test_the_references_choose(references: list[list[str]], names: tuple[str, ...]) -> None:
    chosen = default_metrics(references)
    assert chosen.names == names
    assert set(names) <= set(METRICS)
    assert chosen.reason


@pytest.mark.parametrize("answer", ["245", "2.45", "24.6", "25.6", "24,500"])
def test_a_wrong_number_is_not_right_by_default(answer: str) -> None:
    metrics = find_metrics(default_metrics([["24.5"], ["$1,200.50"]]).names)
    figures = aggregate_scores([_answered(answer, "24.5")], metrics)
    assert figures["numeric_error"] > 0
    assert figures["numeric_error_exact"] == 0
    assert aggregate_scores([_answered("24.50", "24.5")], metrics)["numeric_error_exact"] == 1


def _answered(text: str, reference: str) -> Answer:
    return Answer(source="", question_type="", question="", references=(reference,), text=text)
