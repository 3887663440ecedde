"""Which metrics data get that name none."""

from __future__ import annotations

import pytest

from dsvl_tune.evaluation.default_metrics import default_metrics
from dsvl_tune.evaluation.metrics import METRICS


@pytest.mark.parametrize(
    ("references", "names"),
    [
        ([['{"total": 1}'], ['{"total": 2, "items": []}']], ("json_fields",)),
        ([["[[1, 2, 3, 4]]"], ["<|det|>[[5, 6, 7, 8]]<|/det|>"]], ("box_iou",)),
        ([["Yes"], ["no"]], ("yes_no",)),
        ([["A"], ["C"]], ("choice",)),
        ([["12"], ["$1,200.50"], ["35 %"]], ("exact_match", "numeric_error")),
        ([["red"], ["blue"]] * 20, ("exact_match",)),
        ([["red"] * 10], ("vqa_accuracy",)),
        ([["Philip Morris"], ["1 March 2020"]], ("anls", "exact_match")),
        ([["A long sentence that describes all that one can see in a picture."]], ("rouge_l",)),
        ([[], ["12"]], ("exact_match", "numeric_error")),
        ([[]], ()),
        ([], ()),
    ],
)
def test_the_references_choose(references: list[list[str]], names: tuple[str, ...]) -> None:
    chosen = default_metrics(references)
    assert chosen.names == names
    assert set(names) <= set(METRICS)
    assert chosen.reason
