"""Scores of answers by the metrics of a data module: of each answer, of each type, and of all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics import Metric


def score_answers(answers: Sequence[Answer], metrics: Sequence[Metric]) -> list[Answer]:
    """The answers with their scores; those to questions without a reference get none."""
    return [
        replace(answer, scores=_scores(answer, metrics)) if answer.references else answer
        for answer in answers
    ]


def _scores(answer: Answer, metrics: Sequence[Metric]) -> dict[str, float]:
    """Score of one answer by name of the metric."""
    return {metric.name: metric.score(answer.text, answer.references) for metric in metrics}


def aggregate_scores(answers: Sequence[Answer], metrics: Sequence[Metric]) -> dict[str, float]:
    """The figures of a set of answers that has references.

    The figure of a metric is the mean over question types and not over questions: a type with
    many easy questions must not hide one that fails. Data without types have the one type "".

    Args:
        answers: of all processes. Those without a reference do not count.
        metrics: what is measured.

    Returns:
        For each metric `NAME`, and `NAME/TYPE` for each question type; {} without references.
    """
    by_type: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        if answer.references:
            by_type[answer.question_type].append(answer)
    figures: dict[str, float] = {}
    if not by_type:
        return figures
    for metric in metrics:
        of_types = {name: _figure(metric, group) for name, group in sorted(by_type.items())}
        figures[metric.name] = sum(of_types.values()) / len(of_types)
        for question_type, figure in of_types.items():
            if question_type:
                figures[f"{metric.name}/{question_type}"] = figure
    return figures


def _figure(metric: Metric, answers: Sequence[Answer]) -> float:
    """The metric's figure of some answers, in float32: that is how Lightning logs and compares."""
    predictions = [answer.text for answer in answers]
    references = [answer.references for answer in answers]
    return float(np.float32(metric.aggregate(predictions, references)))
