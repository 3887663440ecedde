"""What a survey of the rows found, counted: errors by kind, lengths, modalities, and what held-out rows have seen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from dsvl_tune.data.validation.inspect import Facts

BINS = 16
"""Bars of the length histogram up to the limit; one more holds what is longer."""
NEAR = 5
"""Bits of 64 in which the looks of two images may differ to count as the same picture."""


@dataclass
class Report:
    """Counts of one split.

    Attributes:
        limit: longest conversation allowed, in tokens.
        conversations, tokens, supervised, cut, with_images: totals; `cut` are those that truncation shortens.
        longest: tokens of the longest.
        histogram: conversations by length, `BINS` bars up to the limit and one beyond it.
        turns, images: conversations by number of turns and of images.
        errors: (number among the split's conversations, message) of each that `fit` would stop with.
        literals: conversations by placeholder string that stands in their text.
        seen: digests for `leaks`: (image looks, image names, question) of each conversation.
    """

    limit: int
    conversations: int = 0
    tokens: int = 0
    supervised: int = 0
    cut: int = 0
    with_images: int = 0
    longest: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * (BINS + 1))
    turns: Counter[int] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    errors: list[tuple[int, str]] = field(default_factory=list)
    literals: Counter[str] = field(default_factory=Counter)
    seen: list[tuple[tuple[int, ...], tuple[str, ...], str]] = field(default_factory=list)

    def add(self, facts: Facts) -> None:
        """Count one more conversation."""
        if facts.error:
            self.errors.append((self.conversations, facts.error))
        self.conversations += 1
        if facts.error:
            return
        self.tokens += facts.tokens
        self.supervised += facts.supervised
        self.cut += facts.cut
        self.with_images += bool(facts.images)
        self.longest = max(self.longest, facts.tokens)
        self.histogram[min((facts.tokens - 1) * BINS // self.limit, BINS)] += 1
        self.turns[facts.turns] += 1
        self.images[len(facts.images)] += 1
        self.literals.update(facts.literals)
        self.seen.append((facts.looks, facts.images, facts.question))

    def kinds(self) -> dict[str, list[str]]:
        """The errors' messages by kind, the most frequent first."""
        kinds: dict[str, list[str]] = {}
        for _, message in self.errors:
            kinds.setdefault(kind_of(message), []).append(message)
        return dict(sorted(kinds.items(), key=lambda item: -len(item[1])))

    def as_json(self) -> dict[str, Any]:
        """Everything that was counted."""
        named = (
            "limit",
            "conversations",
            "tokens",
            "supervised",
            "cut",
            "with_images",
            "longest",
            "histogram",
        )
        return {
            **{name: getattr(self, name) for name in named},
            "turns": dict(sorted(self.turns.items())),
            "images": dict(sorted(self.images.items())),
            "literal_placeholders": dict(self.literals),
            "errors": {kind: messages for kind, messages in self.kinds().items()},
        }


def kind_of(message: str) -> str:
    """A message without what is particular to a row: places, names and numbers."""
    first = re.split(r"[.;] (?=[A-Z])", message, maxsplit=1)[0]
    first = re.sub(r"\S*[/\\]\S*?(?=[:,]? |:?$)(: (row|sample) \d+)?", "…", first)
    first = re.sub(r"'[^']*'", "'…'", re.sub(r"\d[\d,.]*", "N", first))
    return re.sub(r"^(…:?N?:? ?)+", "", first).strip().rstrip(".")


def leaks(train: Report, held_out: Report) -> dict[str, int]:
    """Held-out conversations that training rows give away.

    Returns:
        "image": those that show an image of a training row, or one that looks like it (`NEAR`). "image and question":
        those of them whose question is asked about it there too. "question": those without an image whose question a
        training row without an image asks.
    """
    names = {name for _, images, _ in train.seen for name in images}
    near = cache(Looks(look for row, _, _ in train.seen for look in row).near)
    asked = {(look, question) for row, _, question in train.seen for look in row or (-1,)}
    found = Counter({"image": 0, "image and question": 0, "question": 0})
    for row, images, question in held_out.seen:
        alike = [other for look in row for other in near(look)]
        if alike or names & set(images):
            found["image"] += 1
            found["image and question"] += any((look, question) in asked for look in (*alike, *row))
        elif not images:
            found["question"] += (-1, question) in asked
    return dict(found)


class Looks:
    """A set of 64-bit looks that finds those that differ in few bits.

    All are compared, 64 bits at once: an index over pieces of them would not help, as in pages and drawings most pieces
    are zeros. Looks of flat pictures, with fewer than 4 bits set or missing, say too little and are left out.
    """

    def __init__(self, looks: Iterable[int]) -> None:
        telling = {look for look in looks if 4 <= look.bit_count() <= 60}
        self.looks = np.array(sorted(telling), dtype=np.uint64)

    def near(self, look: int) -> list[int]:
        """Looks of the set that differ from this one in at most `NEAR` bits."""
        found: list[int] = self.looks[
            np.bitwise_count(self.looks ^ np.uint64(look)) <= NEAR
        ].tolist()
        return found
