"""Fields of JSON answers: which are right, missing, invented, and whether it is JSON at all."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.base import Counts, Metric, UnreadableReference, ratio
from dsvl_tune.evaluation.metrics.field_values import same_value

Fields = Mapping[str, Any]
"""Path of a field ("total", "items[0].price") -> its value, a text, number or boolean."""

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_CORRECT, _EXPECTED, _FOUND = "correct ", "expected ", "found "


class JSONFields(Metric):
    """F1 of the fields of JSON answers (0..1).

    An answer is parsed, alone or in a fenced block, so white space, the order of keys and the way a
    number is written do not matter: 1 equals 1.0 and "1.00", "2024-03-05" equals "5 March 2024".
    Text is compared without case and with white space collapsed. A field with null counts as
    absent. Items of lists are compared by position.

    Figures: `NAME` is F1 over all fields of all answers, `NAME.FIELD` that of one field;
    `NAME_missing` is the share of expected fields that are absent, `NAME_invented` the share of
    answered fields that are not expected, `NAME_invalid` the share of answers that are no JSON.
    """

    name = "json_fields"
    percent = True
    opposite_figures = frozenset({"missing", "invented", "invalid"})

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """F1 against the reference that fits best."""
        found, expected = _best_pair(prediction, references)
        if found is None:
            return 0.0
        correct = sum(_is_correct(path, found, expected) for path in expected)
        return _f1(correct, len(expected), len(found)) if found or expected else 1.0

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        rows = [_count(*_best_pair(answer.text, answer.references)) for answer in answers]
        names = sorted({name for row in rows for name in row})
        return {name: np.array([row[name] for row in rows], np.float64) for name in names}

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        expected = sum(sums[name] for name in sums if name.startswith(_EXPECTED))
        found = sum(sums[name] for name in sums if name.startswith(_FOUND))
        correct = sum(sums[name] for name in sums if name.startswith(_CORRECT))
        has_fields = expected or found
        figures = {
            "": _f1(correct, expected, found) if has_fields else 1 - sums.get("invalid", 0.0),
            "missing": ratio(sums.get("missing", 0.0), expected),
            "invented": ratio(sums.get("invented", 0.0), found),
            "invalid": ratio(sums.get("invalid", 0.0), sums["answers"]),
        }
        names = {name.partition(" ")[2] for name in sums if name.startswith((_EXPECTED, _FOUND))}
        for name in sorted(names):
            counted = [sums.get(f"{what}{name}", 0.0) for what in (_CORRECT, _EXPECTED, _FOUND)]
            figures[f".{name}"] = _f1(*counted)
        return figures

    def figure_name(self, figure: str) -> str:
        return f"{self.name}{figure}" if figure.startswith(".") else super().figure_name(figure)

    def is_better_higher(self, name: str) -> bool | None:
        is_field = name.startswith(f"{self.name}.")
        return True if is_field else super().is_better_higher(name)


def read_fields(text: str) -> Fields | None:
    """The fields of a JSON text, or of the fenced block in it; None if it is no JSON."""
    fenced = _FENCE.search(text)
    try:
        content = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None
    return dict(_flatten(content, ""))


def _flatten(content: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value that is neither null nor a container, with its path."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _flatten(value, f"{path}.{key}" if path else key)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _flatten(value, f"{path}[{number}]")
    elif content is not None:
        yield path, content


def _best_pair(prediction: str, references: Sequence[str]) -> tuple[Fields | None, Fields]:
    """The fields of an answer (None if it is no JSON) and of the reference that fits best.

    Raises:
        UnreadableReference: a reference is no JSON.
    """
    expected = [_expected(reference) for reference in references]
    found = read_fields(prediction)
    if found is None:
        return None, expected[0]
    best = max(
        expected, key=lambda fields: sum(_is_correct(path, found, fields) for path in fields)
    )
    return found, best


def _expected(reference: str) -> Fields:
    """The fields of a reference.

    Raises:
        UnreadableReference: it is no JSON.
    """
    fields = read_fields(reference)
    if fields is None:
        raise UnreadableReference(f"reference {reference[:80]!r}, expected JSON")
    return fields


def _is_correct(path: str, found: Fields, expected: Fields) -> bool:
    """Whether a field that is expected was found with its value."""
    return path in found and same_value(found[path], expected[path])


def _count(found: Fields | None, expected: Fields) -> Counter[str]:
    """What is counted of an answer; the positions in lists are left out of the names of fields."""
    counts: Counter[str] = Counter(answers=1, invalid=int(found is None))
    found = found or {}
    for path in expected:
        counts[_EXPECTED + _field(path)] += 1
        counts["missing"] += path not in found
        counts[_CORRECT + _field(path)] += _is_correct(path, found, expected)
    for path in found:
        counts[_FOUND + _field(path)] += 1
        counts["invented"] += path not in expected
    return counts


def _field(path: str) -> str:
    """The name of a field: "items[].price" for every item."""
    return re.sub(r"\[\d+\]", "[]", path)


def _f1(correct: float, expected: float, found: float) -> float:
    """Harmonic mean of precision and recall."""
    return ratio(2 * correct, expected + found)
