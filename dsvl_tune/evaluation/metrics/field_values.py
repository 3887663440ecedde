"""Whether two values of a form mean the same: numbers, dates and booleans as values."""

from __future__ import annotations

import calendar
import re
from datetime import date
from typing import Any

from dsvl_tune.evaluation.metrics.numeric_error import read_number

_MONTHS = tuple(name.lower() for name in calendar.month_name[1:])
_NUMERIC_DATE = re.compile(r"(\d{1,4})([-./])(\d{1,2})\2(\d{1,4})")
_DAY_FIRST = re.compile(
    r"(\d{1,2})(?:st|nd|rd|th)?\.?\s+([a-z]{3,9})\.?,?\s+(\d{4})", re.IGNORECASE
)
_MONTH_FIRST = re.compile(r"([a-z]{3,9})\.?\s+(\d{1,2})(?:st|nd|rd|th)?,?\s+(\d{4})", re.IGNORECASE)
_NUMBER_ALONE = re.compile(r"[-+]?[\d.,']*\d(?:[eE][-+]?\d+)?")


def same_value(found: Any, expected: Any) -> bool:
    """Whether two JSON values mean the same.

    Args:
        found: text, number or boolean.
        expected: text, number or boolean.
    """
    if isinstance(expected, bool) or isinstance(found, bool):
        return _text(found) == _text(expected)
    one, other = _number(found), _number(expected)
    if one is not None and other is not None:
        # An identifier such as a post code keeps its leading zeros.
        return one == other and _leading_zeros(found) == _leading_zeros(expected)
    days, expected_days = _dates(found), _dates(expected)
    if days and expected_days and 1 in (len(days), len(expected_days)):
        return not days.isdisjoint(expected_days)
    return _text(found) == _text(expected)


def _text(value: Any) -> str:
    """A value as text, without case and with white space collapsed; True is "true"."""
    return " ".join(str(value).casefold().split())


def _number(value: Any) -> float | None:
    """The number that a value is, or None."""
    if isinstance(value, str):
        text = value.strip()
        return read_number(text) if _NUMBER_ALONE.fullmatch(text) else None
    return float(value)


def _leading_zeros(value: Any) -> int:
    """Zeros before further digits at the start of a text: 1 of "0123", 0 of "0.5" and 123."""
    if not isinstance(value, str):
        return 0
    zeros = re.match(r"\s*[-+]?(0*)\d", value)
    return len(zeros[1]) if zeros else 0


def _dates(value: Any) -> set[date]:
    """The dates that a text can mean: two where day and month could be exchanged."""
    text = value.strip() if isinstance(value, str) else ""
    if match := _NUMERIC_DATE.fullmatch(text):
        first, separator, second, third = match.groups()
        if len(first) == 4:
            return _valid_dates([(first, second, third)])
        day_first = [(third, second, first)]
        return _valid_dates(day_first if separator == "." else [*day_first, (third, first, second)])
    if match := _DAY_FIRST.fullmatch(text):
        return _valid_dates([(match[3], _month(match[2]), match[1])])
    if match := _MONTH_FIRST.fullmatch(text):
        return _valid_dates([(match[3], _month(match[1]), match[2])])
    return set()


def _month(name: str) -> int:
    """Number of a month by its English name or the first letters of it; 0 for another word."""
    months = [number for number, month in enumerate(_MONTHS, 1) if month.startswith(name.lower())]
    return months[0] if len(months) == 1 else 0


def _valid_dates(candidates: list[tuple[Any, Any, Any]]) -> set[date]:
    """The (year, month, day) that exist, with years of four digits."""
    dates = set()
    for year, month, day in candidates:
        try:
            if len(str(year)) == 4:
                dates.add(date(int(year), int(month), int(day)))
        except ValueError:
            continue
    return dates
