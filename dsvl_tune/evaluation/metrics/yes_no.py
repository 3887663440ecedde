"""Yes-or-no questions, by POPE's rule (arXiv 2305.10355): AoiDragon/POPE, `evaluate.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.base import Counts, Metric, UnreadableReference, ratio
from dsvl_tune.evaluation.metrics.vqa_accuracy import without_punctuation


def read_yes_no(text: str) -> Literal["yes", "no"]:
    """POPE's reading: "no" if "No", "no" or "not" is a word of the first sentence, else "yes".

    Everything else is a yes: "", "maybe", "NO".
    """
    words = text.split(".", 1)[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def read_yes_no_vlmevalkit(text: str) -> Literal["yes", "no"] | None:
    """VLMEvalKit's reading: "yes" or "no", if only one of them is a word; else nothing is read.

    Source: open-compass/VLMEvalKit, `vlmeval/dataset/utils/yorn.py`, YOrN_Extraction.
    """
    words = set(without_punctuation(text.lower()).split())
    found = words & {"yes", "no"}
    if len(found) != 1:
        return None
    return "yes" if "yes" in found else "no"


class YesNo(Metric):
    """Accuracy of yes-or-no answers (0..1), and precision, recall and F1 of "yes".

    Answers are read by POPE's rule, see `read_yes_no`; the share of answers read as yes is a
    figure of its own, as a model that always says yes is half right on balanced questions.
    """

    name = "yes_no"
    percent = True

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """1 if the answer is read as the reference, else 0."""
        return float(read_yes_no(prediction) == _label(references))

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        said_yes = np.array([read_yes_no(answer.text) == "yes" for answer in answers])
        is_yes = np.array([_label(answer.references) == "yes" for answer in answers])
        return {
            "true_yes": np.float64(said_yes & is_yes),
            "false_yes": np.float64(said_yes & ~is_yes),
            "true_no": np.float64(~said_yes & ~is_yes),
            "false_no": np.float64(~said_yes & is_yes),
        }

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        said_yes = sums["true_yes"] + sums["false_yes"]
        is_yes = sums["true_yes"] + sums["false_no"]
        answers = sum(sums.values())
        precision = ratio(sums["true_yes"], said_yes)
        recall = ratio(sums["true_yes"], is_yes)
        return {
            "": ratio(sums["true_yes"] + sums["true_no"], answers),
            "precision": precision,
            "recall": recall,
            "f1": ratio(2 * precision * recall, precision + recall),
            "yes_ratio": ratio(said_yes, answers),
        }


class VLMEvalKitYesNo(Metric):
    """Yes-or-no answers as VLMEvalKit scores POPE: what it cannot read is wrong, and no yes."""

    name = "yes_no"
    percent = True
    opposite_figures = frozenset({"unread"})

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """1 if the answer is read as the reference, else 0."""
        return float(read_yes_no_vlmevalkit(prediction) == _label(references))

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        read = [read_yes_no_vlmevalkit(answer.text) for answer in answers]
        said_yes = np.array([one == "yes" for one in read])
        is_yes = np.array([_label(answer.references) == "yes" for answer in answers])
        return {
            **super().counts(answers, scores),
            "true_yes": np.float64(said_yes & is_yes),
            "said_yes": np.float64(said_yes),
            "is_yes": np.float64(is_yes),
            "unread": np.array([one is None for one in read], np.float64),
        }

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        precision = ratio(sums["true_yes"], sums["said_yes"])
        recall = ratio(sums["true_yes"], sums["is_yes"])
        return {
            "": ratio(sums["score"], sums["answers"]),
            "precision": precision,
            "recall": recall,
            "f1": ratio(2 * precision * recall, precision + recall),
            "yes_ratio": ratio(sums["said_yes"], sums["answers"]),
            "unread": ratio(sums["unread"], sums["answers"]),
        }


def _label(references: Sequence[str]) -> str:
    """The reference as "yes" or "no".

    Raises:
        UnreadableReference: it is neither.
    """
    labels = {reference.strip().rstrip(".").lower() for reference in references}
    if len(labels) != 1 or not labels <= {"yes", "no"}:
        raise UnreadableReference(f"reference {list(references)!r}, expected yes or no")
    return labels.pop()
