"""Overlap of boxes in grounding answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.base import Counts, Metric, UnreadableReference, ratio

Box = tuple[float, float, float, float]
"""Left, top, right, bottom; in DeepSeek-VL2 integers 0..999 of the original picture."""

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"[\[(]{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}[\])]")


class BoxIoU(Metric):
    """Mean intersection over union of boxes (0..1), and the share of answers with 0.5 or more.

    Boxes are lists of four numbers anywhere in a text, e.g. `[[x1, y1, x2, y2], ...]` between
    `<|det|>` and `<|/det|>`. Answered and expected boxes are paired, the largest overlap first; the
    sum of the overlaps is divided by the larger number of boxes, so that a missing box and one too
    many both count as 0.
    """

    name = "box_iou"
    percent = True

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """Overlap with the reference that fits best."""
        found = read_boxes(prediction)
        return max(_overlap(found, _expected(reference)) for reference in references)

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        unread = [not read_boxes(answer.text) for answer in answers]
        return {
            **super().counts(answers, scores),
            "at_50": np.float64(np.asarray(scores) >= 0.5),
            "unread": np.array(unread, np.float64),
        }

    opposite_figures = frozenset({"unread"})

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {
            **super().figures(sums),
            "at_50": ratio(sums["at_50"], sums["answers"]),
            "unread": ratio(sums["unread"], sums["answers"]),
        }


def read_boxes(text: str) -> list[Box]:
    """Every box in a text.

    Example:
        >>> read_boxes("<|det|>[[1, 2, 30, 40]]<|/det|>")
        [(1.0, 2.0, 30.0, 40.0)]
    """
    return [
        (float(left), float(top), float(right), float(bottom))
        for left, top, right, bottom in _BOX.findall(text)
    ]


def intersection_over_union(one: Box, other: Box) -> float:
    """Common area of two boxes divided by the area that they cover; 0 for an empty box."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / (_area(one) + _area(other) - common)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(found: Sequence[Box], expected: Sequence[Box]) -> float:
    """Sum of the overlaps of paired boxes, divided by the larger number of boxes."""
    pairs = [
        (intersection_over_union(one, other), number, other_number)
        for number, one in enumerate(found)
        for other_number, other in enumerate(expected)
    ]
    total = 0.0
    used: set[int] = set()
    matched: set[int] = set()
    for overlap, number, other_number in sorted(pairs, reverse=True):
        if number not in used and other_number not in matched:
            used.add(number)
            matched.add(other_number)
            total += overlap
    return total / max(len(found), len(expected))


def _expected(reference: str) -> list[Box]:
    """The boxes of a reference.

    Raises:
        UnreadableReference: it has none.
    """
    boxes = read_boxes(reference)
    if not boxes:
        raise UnreadableReference(
            f"reference {reference[:80]!r} has no box, expected [x1, y1, x2, y2]"
        )
    return boxes
