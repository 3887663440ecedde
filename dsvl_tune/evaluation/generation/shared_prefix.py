"""Which prompts begin alike: those about the same images, in groups that become rows of trees."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from dsvl_tune.core.types import Prompts

LEAST_SHARED = 0.5
"""Prompts share a prefix that is at least this part of the longest of them."""
MOST_SLOTS = 1.25
"""Rows have at most so many slots a prompt: each slot costs what a prompt costs."""


class PrefixGroup(NamedTuple):
    """Prompts that begin alike.

    Attributes:
        rows: numbers of the prompts.
        length: tokens that they share, at least one less than any of them has.
    """

    rows: list[int]
    length: int


def unpadded(prompts: Prompts) -> list[list[int]]:
    """Token ids of each prompt without its padding."""
    rows = zip(prompts.input_ids.tolist(), prompts.attention_mask.tolist(), strict=True)
    return [ids[mask.index(1) :] for ids, mask in rows]


def image_slots(prompts: Prompts) -> list[list[int]]:
    """Which of the distinct images fills each image slot of each prompt."""
    index = prompts.image_index.tolist()
    ends = list(accumulate(prompts.image_counts, initial=0))
    return [index[start:stop] for start, stop in pairwise(ends)]


def prefix_groups(
    ids: Sequence[Sequence[int]], slots: Sequence[Sequence[int]], image_token_id: int
) -> list[PrefixGroup]:
    """Group prompts about the same images whose shared prefix holds all image tokens.

    A prompt that shares too little is alone, and all of it but its last token is its prefix.

    Args:
        ids: token ids of each prompt.
        slots: its images.
        image_token_id: of the model.
    """
    by_images: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, images in enumerate(slots):
        by_images[tuple(images)].append(row)
    groups = []
    for rows in by_images.values():
        shared = common_prefix([ids[row] for row in rows])
        beyond = any(image_token_id in ids[row][shared:] for row in rows)
        longest = max(len(ids[row]) for row in rows)
        if len(rows) > 1 and not beyond and shared >= LEAST_SHARED * longest:
            groups.append(PrefixGroup(rows, shared))
        else:
            groups += [PrefixGroup([row], len(ids[row]) - 1) for row in rows]
    return groups


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Number of tokens that rows begin with alike, at most one less than the shortest has."""
    shortest = min(len(row) for row in rows) - 1
    first = rows[0]
    for place in range(shortest):
        if any(row[place] != first[place] for row in rows):
            return place
    return shortest


def branches_per_row(sizes: Sequence[int]) -> int:
    """How many prompts share a row at most.

    Every row has as many slots as the one with the most prompts. The more of a group are in a row,
    the fewer copies of its prefix there are, but the more slots of smaller groups stay empty.

    Args:
        sizes: prompts of each group.
    """
    return max(
        branches
        for branches in range(1, max(sizes) + 1)
        if branches * sum(-(-size // branches) for size in sizes) <= MOST_SLOTS * sum(sizes)
    )
