"""Which conversations are held out, and which share a message tree."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from random import Random

from dsvl_tune.core.errors import UserError

MAX_BRANCHES = 8
"""Conversations in one message tree: an image with many questions must not make a row too long."""


def group_trees(keys: Iterable[tuple[int, Hashable | None]]) -> list[list[int]]:
    """Conversations that one message tree can hold together, in the order of their first.

    Args:
        keys: (number, key) of each conversation; equal keys fit into one tree, None stays alone.
    """
    rows: list[list[int]] = []
    open_rows: dict[Hashable, list[int]] = {}
    for number, key in keys:
        row = open_rows.get(key) if key is not None else None
        if row is None or len(row) == MAX_BRANCHES:
            row = []
            rows.append(row)
            if key is not None:
                open_rows[key] = row
        row.append(number)
    return rows


def hold_out(images: Sequence[Sequence[str]], wanted: int, seed: int, name: str) -> set[int]:
    """Numbers of the conversations to hold out: they share no image with the others.

    Up to `wanted` and up to a fifth of the conversations, but at least one group of conversations
    that share images.

    Args:
        images: names of each conversation's images.
        wanted: how many to hold out.
        seed: seed of the choice.
        name: the file, for errors.

    Raises:
        UserError: all conversations share their images.
    """
    groups = group_by_image(images)
    if len(groups) < 2:
        raise UserError(
            f"{name}: the training file has one image or one row only, so none can be held out. "
            "Give data.validation, or set data.validation_rows: 0."
        )
    Random(seed).shuffle(groups)
    limit = min(wanted, len(images) // 5)
    held_out: set[int] = set()
    for members in groups:
        if len(held_out) + len(members) <= limit:
            held_out.update(members)
    smallest = min(groups, key=len)
    return held_out or set(smallest)


def group_by_image(images: Sequence[Iterable[str]]) -> list[list[int]]:
    """Numbers of the conversations in groups that have no image in common with another group.

    Args:
        images: names of each conversation's images.
    """
    parents = list(range(len(images)))  # a forest of sets (union by order, paths halved)

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    first_with: dict[str, int] = {}
    for i, names in enumerate(images):
        for name in names:
            earlier, later = sorted((root(i), root(first_with.setdefault(name, i))))
            parents[later] = earlier
    groups: dict[int, list[int]] = {}
    for i in range(len(images)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
