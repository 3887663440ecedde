"""The table of scores in a merged checkpoint's README."""

from __future__ import annotations

from dsvl_tune.export.model_card import scores_text


def test_what_there_is_none_of_is_a_dash() -> None:
    summary = {
        **{"before": {"relaxed_accuracy": 0.25}, "floor": {"relaxed_accuracy": 0.5}},
        "after": {"relaxed_accuracy": 1.0, "retention_set/relaxed_accuracy": 0.125},
    }
    assert scores_text(summary).splitlines()[2:] == [
        "| relaxed_accuracy | 0.250 | 1.000 | 0.500 |",
        "| retention_set/relaxed_accuracy | - | 0.125 | - |",
    ]
