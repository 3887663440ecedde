"""What `InstructDataModule` does with the rows that it opened: load, hold out, group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.formats.conversations import ConversationRows
from dsvl_tune.data.sampling.holdout import group_trees
from dsvl_tune.data.validation.row_stats import RowStats, row_length


def check_holdout(rows: ConversationRows, check_rows: int) -> None:
    """Raise if validation rows cannot be held out: that needs the images of all training rows.

    Args:
        rows: the training rows.
        check_rows: rows up to which a file is read before training.
    """
    name = rows.name
    if rows.num_rows is None:
        raise UserError(
            f"{name}: is streamed, so none of its rows can be held out by their images. "
            "Give data.validation, or set data.validation_rows: 0."
        )
    if rows.num_rows > check_rows:
        raise UserError(
            f"{name}: {rows.num_rows:,} rows, more than check_rows ({check_rows:,}), so they are "
            "not read before training and none can be held out by their images. "
            "Give data.validation, set data.validation_rows: 0, or raise data.check_rows."
        )


def load_held_out(rows: ConversationRows, limit: int) -> ConversationRows:
    """Streamed rows that are held out, read into memory.

    Args:
        rows: a stream.
        limit: most rows that may be held out.

    Raises:
        UserError: there are more, or none.
    """
    loaded = rows.with_first_loaded(limit + 1).in_memory()
    if len(loaded) > limit:
        raise UserError(
            f"{rows.name}: more rows than check_rows ({limit:,}); held-out rows that are streamed "
            "are read into memory. Name fewer, save them on this machine, or raise "
            "data.check_rows."
        )
    check_not_empty(loaded)
    return loaded


def check_not_empty(rows: ConversationRows) -> None:
    """Raise if there are no rows."""
    if not len(rows):
        raise UserError(f"{rows.name}: no rows. Expected at least one conversation.")


def group_rows(
    rows: ConversationRows, stats: Sequence[RowStats], numbers: Sequence[int], *, as_trees: bool
) -> ConversationRows:
    """Some of the conversations as rows, with the rows' lengths if the results have them.

    Args:
        rows: all conversations.
        stats: the result of each.
        numbers: which of them to take, in order.
        as_trees: whether those about the same images share a row.
    """
    keys = ((number, stats[number].tree if as_trees else None) for number in numbers)
    trees = group_trees(keys)
    pictures = sorted({name for number in numbers for name in stats[number].images})
    rows = replace(rows, trees=trees, pictures=pictures)
    lengths = [row_length([stats[number] for number in tree]) for tree in trees]
    if not all(lengths):  # results of `inspect_outline` have none
        return rows
    return replace(rows, lengths=np.array(lengths, dtype=np.int64))
