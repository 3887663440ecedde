"""The rows of a mixture: those of its sources, with their weights."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any
from zlib import crc32

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.rows import Item, LazyItems, Rows


@dataclass(frozen=True)
class SourceRows(Rows):
    """The rows of one source as they are mixed.

    Attributes:
        name: the source's name in the recipe.
        rows: what its data module serves.
        text_only: whether its rows may not show an image.
        weight: loss weight of its answers.
        modality_weights: loss weight of answers in rows of "text" and of "image".
        metrics: names of what scores its rows, but for those that name their own metrics; () if
            all sources have the same.
    """

    name: str
    rows: Rows
    text_only: bool
    weight: float
    modality_weights: Mapping[str, float]
    metrics: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int | None:
        """Number of rows; None for a stream."""
        return self.rows.num_rows

    def __getitem__(self, index: Any) -> list[Conversation]:
        return [self.weighted(conversation) for conversation in self.rows[index]]

    def head(self, limit: int) -> Iterator[list[Conversation]]:
        """Up to `limit` of the first rows."""
        for row in self.rows.head(limit):
            yield [self.weighted(conversation) for conversation in row]

    def flattened(self) -> WeightedConversations:
        """The conversations of all rows, in order."""
        return WeightedConversations(self, self.rows.flattened())

    def weighted(self, conversation: Conversation) -> Conversation:
        """The conversation with name, weights, metrics and, unless it has one, type of this source.

        Raises:
            UserError: it shows an image, and the source is text alone.
        """
        if self.text_only and conversation.images:
            raise UserError(
                f"{conversation.source}: has an image, but data.text_only names its source "
                f"{self.name!r}. Correct one of them."
            )
        weight = self.weight * self.modality_weights["image" if conversation.images else "text"]
        turns = conversation.turns
        if weight != 1:
            turns = tuple(replace(turn, weight=turn.weight * weight) for turn in turns)
        question_type = conversation.question_type or self.name
        own_metrics = {"metric": self.metrics} if self.metrics else {}
        scoring = {**own_metrics, **conversation.scoring}
        return replace(
            conversation,
            turns=turns,
            question_type=question_type,
            scoring=scoring,
            mixture_source=self.name,
        )


@dataclass(frozen=True)
class WeightedConversations(LazyItems[Conversation]):
    """The conversations of a source, with its weights.

    Attributes:
        source: the source.
        conversations: as its data module serves them.
    """

    source: SourceRows
    conversations: LazyItems[Conversation]

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: Any) -> Conversation:
        return self.source.weighted(self.conversations[index])


class JoinedItems(LazyItems[Item]):
    """The items of several parts, one part after another.

    Args:
        parts: the parts.
    """

    def __init__(self, parts: Sequence[LazyItems[Item]]) -> None:
        self.parts = parts
        self.ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: Any) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self.ends, index)
        part = self.parts[number]
        return part[index - (self.ends[number] - len(part))]


class MixedRows(Rows):
    """The rows of all sources. Rows with numbers are numbered one source after another.

    Args:
        sources: the rows of each source.
    """

    def __init__(self, sources: Sequence[SourceRows]) -> None:
        self.sources = sources
        self.numbered = JoinedItems([rows for rows in sources if rows.num_rows is not None])

    @property
    def num_rows(self) -> int | None:
        """Number of rows; None if a source is streamed."""
        if any(rows.num_rows is None for rows in self.sources):
            return None
        return len(self.numbered)

    @property
    def checksum(self) -> int:  # type: ignore[override]
        """CRC-32 over the sources' checksums."""
        return crc32(repr([source.rows.checksum for source in self.sources]).encode())

    @property
    def picture_checksum(self) -> int:  # type: ignore[override]
        """CRC-32 over the sources' checksums of their pictures."""
        return crc32(repr([source.rows.picture_checksum for source in self.sources]).encode())

    def __getitem__(self, index: Any) -> list[Conversation]:
        """A row.

        Args:
            index: its number, or the number of its source and a key of that source's rows.
        """
        if isinstance(index, tuple):
            source, key = index
            return self.sources[source][key]
        return self.numbered[index]

    def flattened(self) -> LazyItems[Conversation]:
        """The conversations of all rows, in order."""
        return JoinedItems([source.flattened() for source in self.sources])
