"""Questions with exact answers about elements that have a name and a value.

A question never gives its answer away: for every threshold and every pair of names both answers are
equally likely, because the answer is drawn first and the element after it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

VALUES = tuple(range(10, 100, 10))
ROUNDS = 3
"""Rounds over the question types before `ask` stops looking for another new question."""


@dataclass(frozen=True)
class Item:
    """An element of a picture or a table: its name and its value (10, 20, ... 90)."""

    name: str
    value: int


Fact = tuple[dict[str, str], str]
"""The words that a question contains, and its answer; a wording may rephrase "yes" and "no"."""


def value(rng: random.Random, items: list[Item]) -> Fact | None:
    """The value of a named element."""
    item = rng.choice(items)
    return {"a": item.name}, str(item.value)


def holder(rng: random.Random, items: list[Item]) -> Fact | None:
    """The element that has a given value."""
    item = rng.choice(items)
    if sum(other.value == item.value for other in items) > 1:
        return None
    return {"v": str(item.value)}, item.name


def count(rng: random.Random, items: list[Item]) -> Fact | None:
    """The number of elements."""
    return {}, str(len(items))


def largest(rng: random.Random, items: list[Item]) -> Fact | None:
    """The element with the largest value."""
    return extreme(items, max(item.value for item in items))


def smallest(rng: random.Random, items: list[Item]) -> Fact | None:
    """The element with the smallest value."""
    return extreme(items, min(item.value for item in items))


def extreme(items: list[Item], wanted: int) -> Fact | None:
    """The only element with the wanted value."""
    names = [item.name for item in items if item.value == wanted]
    return ({}, names[0]) if len(names) == 1 else None


def compare(rng: random.Random, items: list[Item]) -> Fact | None:
    """Whether one element has a larger value than another; the order of the pair is random."""
    first, second = rng.sample(items, 2)
    if first.value == second.value:
        return None
    return {"a": first.name, "b": second.name}, "yes" if first.value > second.value else "no"


def larger_of(rng: random.Random, items: list[Item]) -> Fact | None:
    """Which of two elements has the larger value."""
    first, second = rng.sample(items, 2)
    if first.value == second.value:
        return None
    return {"a": first.name, "b": second.name}, max(first, second, key=lambda item: item.value).name


def over(rng: random.Random, items: list[Item]) -> Fact | None:
    """Whether an element is over a threshold (15, 25, ... 85) that splits the elements."""
    low, high = min(item.value for item in items), max(item.value for item in items)
    if low == high:
        return None
    threshold = rng.randrange(low, high, 10) + 5
    wanted = rng.random() < 0.5
    item = rng.choice([item for item in items if (item.value > threshold) == wanted])
    return {"a": item.name, "t": str(threshold)}, "yes" if wanted else "no"


def first(rng: random.Random, items: list[Item]) -> Fact | None:
    """The element that comes first."""
    return {}, items[0].name


def last(rng: random.Random, items: list[Item]) -> Fact | None:
    """The element that comes last."""
    return {}, items[-1].name


def after(rng: random.Random, items: list[Item]) -> Fact | None:
    """The element that follows a named one."""
    place = rng.randrange(len(items) - 1)
    return {"a": items[place].name}, items[place + 1].name


def before(rng: random.Random, items: list[Item]) -> Fact | None:
    """The element that precedes a named one."""
    place = rng.randrange(len(items) - 1)
    return {"a": items[place + 1].name}, items[place].name


def listing(rng: random.Random, items: list[Item]) -> Fact | None:
    """Every element with its value, in order."""
    return {}, written(items)


def readout(rng: random.Random, items: list[Item]) -> Fact | None:
    """Elements with their values, in the order that the question gives."""
    asked = rng.sample(items, len(items))
    return {"a": ", ".join(item.name for item in asked)}, written(asked)


def written(items: list[Item]) -> str:
    """Elements with their values; without a space, so that a first digit follows its name."""
    return ", ".join(f"{item.name}{item.value}" for item in items)


def ranking(rng: random.Random, items: list[Item]) -> Fact | None:
    """The elements from the largest value to the smallest."""
    if len({item.value for item in items}) < len(items):
        return None
    return {}, ", ".join(item.name for item in sorted(items, key=lambda item: -item.value))


FACTS: dict[str, Callable[[random.Random, list[Item]], Fact | None]] = {
    fact.__name__: fact
    for fact in (
        value,
        holder,
        count,
        largest,
        smallest,
        compare,
        larger_of,
        over,
        first,
        last,
        after,
        before,
        listing,
        readout,
        ranking,
    )
}


@dataclass(frozen=True)
class Wording:
    """How a domain asks for one fact.

    Attributes:
        fact: key of `FACTS`.
        question_type: that metrics report; several wordings may share one.
        text: the question, with the fact's words in braces.
        answers: the domain's own words for some answers.
    """

    fact: str
    question_type: str
    text: str
    answers: dict[str, str] | None = None


def ask(
    rng: random.Random, items: list[Item], wordings: tuple[Wording, ...], amount: int
) -> list[tuple[str, str, str]]:
    """Different questions about the same elements: (question type, question, answer).

    The question types take turns in random order, so that each is asked equally often. Returns
    fewer than `amount` where the elements do not allow that many different questions.
    """
    types = sorted({wording.question_type for wording in wordings})
    asked: dict[str, tuple[str, str, str]] = {}
    for _ in range(ROUNDS):
        rng.shuffle(types)
        for type_ in types:
            wording = rng.choice([one for one in wordings if one.question_type == type_])
            found = FACTS[wording.fact](rng, items)
            if found is not None and len(asked) < amount:
                names, answer = found
                text = wording.text.format(**names)
                answer = (wording.answers or {}).get(answer, answer)
                asked.setdefault(text, (type_, text, answer))
    return list(asked.values())
