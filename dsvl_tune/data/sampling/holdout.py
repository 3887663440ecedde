"""Which conversations belong together: those that one message tree holds, those that share an image."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from random import Random

from dsvl_tune.core.errors import UserError

MAX_BRANCHES = 8
"""Conversations in one message tree, so that a much-asked image makes no row that memory cannot hold."""


def group_trees(keys: Iterable[tuple[int, Hashable | None]]) -> list[list[int]]:
    """Conversations that fit into one tree together, in the order of their first.

    Args:
        keys: (index, key) of each conversation, the key from `packing.tree_key`.
    """
    rows: list[list[int]] = []
    open_rows: dict[Hashable, list[int]] = {}
    for index, key in keys:
        row = open_rows.get(key) if key is not None else None
        if row is None or len(row) == MAX_BRANCHES:
            row = []
            rows.append(row)
            if key is not None:
                open_rows[key] = row
        row.append(index)
    return rows


def hold_out(images: Sequence[Sequence[str]], wanted: int, seed: int, where: str) -> set[int]:
    """Up to `wanted` and up to a fifth of the conversations, at least one group; groups share no image.

    Args:
        images: names of each conversation's images.
        wanted: how many to hold out.
        seed: of the choice.
        where: the file, for the error.

    Raises:
        UserError: all conversations show the same images.
    """
    groups = share_images(images)
    if len(groups) < 2:
        raise UserError(
            f"{where}: the training file has one image or one row only, so none can be held out. "
            "Give data.validation, or set data.validation_rows: 0."
        )
    Random(seed).shuffle(groups)
    limit = min(wanted, len(images) // 5)
    held: set[int] = set()
    for members in groups:
        if len(held) + len(members) <= limit:
            held.update(members)
    smallest = min(groups, key=len)
    return held or set(smallest)


def share_images(images: Sequence[Iterable[str]]) -> list[list[int]]:
    """Indices of the conversations in groups that have no image in common with another group."""
    parents = list(range(len(images)))  # a forest of sets (union by order, paths halved)

    def first_of(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    home: dict[str, int] = {}
    for i, names in enumerate(images):
        for name in names:
            one, other = sorted((first_of(i), first_of(home.setdefault(name, i))))
            parents[other] = one
    groups: dict[int, list[int]] = {}
    for i in range(len(images)):
        groups.setdefault(first_of(i), []).append(i)
    return list(groups.values())
