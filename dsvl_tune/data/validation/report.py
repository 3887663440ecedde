"""Validation results of a split, counted: errors by kind, lengths, modalities."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dsvl_tune.data.validation.row_stats import RowStats

BINS = 16
"""Bars of the length histogram up to the limit; one more holds what is longer."""
COUNTED = (
    "limit",
    "conversations",
    "tokens",
    "supervised",
    "cut",
    "with_images",
    "longest",
    "histogram",
)
"""Attributes of a report that go to JSON as they are."""


class Fingerprint(NamedTuple):
    """What identifies a conversation in another split.

    Attributes:
        number: of the conversation in its split.
        source: file and row.
        hashes: perceptual hash of each image.
        images: name of each image.
        question: digest of the first question.
    """

    number: int
    source: str
    hashes: tuple[int, ...]
    images: tuple[str, ...]
    question: str

    def image_label(self, place: int) -> str:
        """What messages call one of its images: its file, or the row that holds it."""
        name = self.images[place]
        return f"{self.source}, image {place + 1}" if name.startswith("sha256:") else name


@dataclass
class SplitReport:
    """Counts of one split.

    Attributes:
        limit: longest conversation allowed, in tokens.
        conversations: conversations in the split; those with an error are counted nowhere else.
        tokens: tokens of all conversations.
        supervised: supervised tokens of all conversations.
        cut: conversations that truncation shortens.
        with_images: conversations with an image.
        longest: tokens of the longest conversation.
        histogram: conversations by length, `BINS` bars up to the limit and one beyond it.
        turns: conversations by number of turns.
        images: conversations by number of images.
        image_lengths: images by their tokens and tiles.
        errors: (number of the conversation in the split, message) of what `fit` would stop with.
        literals: conversations by placeholder string in their text.
        fingerprints: of each conversation, to find leaks.
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
    image_lengths: Counter[str] = field(default_factory=Counter)
    errors: list[tuple[int, str]] = field(default_factory=list)
    literals: Counter[str] = field(default_factory=Counter)
    fingerprints: list[Fingerprint] = field(default_factory=list)

    def add(self, stats: RowStats) -> None:
        """Count one more conversation."""
        number = self.conversations
        self.conversations += 1
        if stats.error:
            self.errors.append((number, stats.error))
            return
        self.tokens += stats.tokens
        self.supervised += stats.supervised
        self.cut += stats.cut
        self.with_images += bool(stats.images)
        self.longest = max(self.longest, stats.tokens)
        self.histogram[min((stats.tokens - 1) * BINS // self.limit, BINS)] += 1
        self.turns[stats.turns] += 1
        self.images[len(stats.images)] += 1
        self.image_lengths.update(stats.image_lengths)
        self.literals.update(stats.literals)
        self.fingerprints.append(
            Fingerprint(number, stats.source, stats.hashes, stats.images, stats.question)
        )

    def error_kinds(self) -> dict[str, list[str]]:
        """The errors' messages by kind, the most frequent kind first."""
        kinds: dict[str, list[str]] = {}
        for _, message in self.errors:
            kinds.setdefault(error_kind(message), []).append(message)
        return dict(sorted(kinds.items(), key=lambda item: -len(item[1])))

    def as_json(self) -> dict[str, Any]:
        """Everything that was counted."""
        return {
            **{name: getattr(self, name) for name in COUNTED},
            "turns": dict(sorted(self.turns.items())),
            "images": dict(sorted(self.images.items())),
            "image_lengths": dict(self.image_lengths.most_common()),
            "literal_placeholders": dict(self.literals),
            "errors": self.error_kinds(),
        }


def error_kind(message: str) -> str:
    """A message without what differs between rows: places, names and numbers."""
    first = re.split(r"[.;] (?=[A-Z])", message, maxsplit=1)[0]
    first = re.sub(r"\S*[/\\]\S*?(?=[:,]? |:?$)(: (row|sample) \d+)?", "…", first)
    first = re.sub(r"'[^']*'", "'…'", re.sub(r"\d[\d,.]*", "N", first))
    return re.sub(r"^(…:?N?:? ?)+", "", first).strip().rstrip(".")
