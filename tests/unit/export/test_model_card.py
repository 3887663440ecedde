"""The table of scores in a merged checkpoint's README."""

from __future__ import annotations

import pytest

from dsvl_tune.export.model_card import scores_text


@pytest.mark.parametrize("key", ["majority_baseline", "floor"])
def test_missing_figures_are_dashes(key: str) -> None:
    """A summary of version 0.1 has the baseline under "floor"."""
    summary = {
        "before": {"relaxed_accuracy": 0.25},
        "after": {"relaxed_accuracy": 1.0, "tables/relaxed_accuracy": 0.125},
        key: {"relaxed_accuracy": 0.5},
    }
    assert scores_text(summary).splitlines()[2:] == [
        "| relaxed_accuracy | 0.250 | 1.000 | 0.500 |",
        "| tables/relaxed_accuracy | - | 0.125 | - |",
    ]
