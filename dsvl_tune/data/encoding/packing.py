"""Several conversations in one row, each as if it were alone.

`models.runtime.attention_mask` keeps them apart.

A message tree (the field's term is from Molmo2) holds conversations about the same images, and the
images once. Their common beginning is the shared prefix; each conversation continues it in a branch
that attends to the prefix and to itself only, at the positions it would have alone. A packed row
holds conversations and trees that have nothing in common.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import takewhile

from dsvl_tune.core.types import Conversation, ImageRef, Sample

PACKED_SHARE = 0.75
"""Packed rows are worth it from this share of the padded tokens: their dense attention mask makes a
step of equally many tokens take up to 1.22 times as long (`benchmarks/speed/packing.py`)."""


def tree_key(conversation: Conversation) -> Hashable | None:
    """Equal for conversations that fit into one tree.

    They have the same system prompt and begin alike up to the last image. None for a conversation
    without images, or with an image after the first turn: it stays a row of its own.
    """
    first = conversation.turns[0].parts
    places = [place for place, part in enumerate(first) if isinstance(part, ImageRef)]
    if not places or len(conversation.images) > len(places):
        return None
    beginning = first[: places[-1] + 1]
    contents = tuple(part.name if isinstance(part, ImageRef) else part for part in beginning)
    kinds = tuple(isinstance(part, ImageRef) for part in beginning)
    return conversation.system, contents, kinds


def merge_tree(samples: Sequence[Sample]) -> Sample:
    """One row of several samples that show the same images; a single sample is returned as it is.

    The prefix is the longest common beginning that leaves every branch a token of its own before
    its first supervised one: a supervised token is predicted from the one before it in the row,
    which must be of the same conversation.

    Args:
        samples: encoded alone, with the same images in the same order, all inside the common
            beginning.

    Raises:
        ValueError: the samples show different images, or an image comes after the common beginning.
    """
    if len(samples) == 1:
        return samples[0]
    first = samples[0]
    sources = [source for sample in samples for source in sample.sources]
    images = [image.identity for image in first.images]
    if any([image.identity for image in sample.images] != images for sample in samples):
        raise ValueError(
            f"conversations of one row must show the same images in the same order: {sources}"
        )
    prefix = shared_length(samples)
    if any(stop > prefix for _, stop in first.image_spans):
        raise ValueError(
            f"conversations of one row must begin alike up to their last image: {sources}"
        )
    row = Sample(
        input_ids=first.input_ids[:prefix],
        labels=first.labels[:prefix],
        loss_weights=first.loss_weights[:prefix],
        position_ids=first.position_ids[:prefix],
        segment_ids=[],
        branch_ids=[0] * prefix,
        images=first.images,
        image_spans=first.image_spans,
        sources=sources,
        mixture_sources=first.mixture_sources,
    )
    for branch, sample in enumerate(samples, start=1):
        row.input_ids += sample.input_ids[prefix:]
        row.labels += sample.labels[prefix:]
        row.loss_weights += sample.loss_weights[prefix:]
        row.position_ids += sample.position_ids[prefix:]
        row.branch_ids += [branch] * (len(sample.input_ids) - prefix)
    row.segment_ids = [0] * len(row.input_ids)
    return row


def shared_length(samples: Sequence[Sample]) -> int:
    """Tokens of the longest prefix that `merge_tree` can share between samples."""
    columns = zip(*(sample.input_ids for sample in samples), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    for sample in samples:
        first_supervised = next(i for i, weight in enumerate(sample.loss_weights) if weight)
        shared = min(shared, first_supervised - 1)
    return shared


def pack_padding(samples: Sequence[Sample]) -> list[Sample]:
    """Put samples into rows no longer than the longest, where that is worth it.

    Args:
        samples: at least one.
    """
    lengths = [len(sample.input_ids) for sample in samples]
    rows = distribute(lengths, max(lengths))
    width = max(sum(lengths[number] for number in row) for row in rows)
    if len(rows) * width > PACKED_SHARE * len(samples) * max(lengths):
        return list(samples)
    return join_rows(samples, rows)


def pack(samples: Sequence[Sample], limit_tokens: int) -> list[Sample]:
    """Put samples into few rows of up to `limit_tokens`, of about equal length.

    Args:
        samples: at least one. Where one is longer than the limit, its length is the limit.
        limit_tokens: longest row, image tokens counted.
    """
    return join_rows(
        samples, distribute([len(sample.input_ids) for sample in samples], limit_tokens)
    )


def distribute(lengths: Sequence[int], limit_tokens: int) -> list[list[int]]:
    """Which samples share a row.

    A batch is as wide as its longest row. The longest sample goes first, each to the row that is
    the shortest so far (Graham 1969, longest processing time first); while a row comes out too
    long, one more row is taken. In a row the samples keep their order.

    Args:
        lengths: of at least one sample.
        limit_tokens: as in `pack`.

    Returns:
        The numbers of the samples in each row.
    """
    longest_first = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    limit = max(limit_tokens, max(lengths))
    fewest = -(-sum(lengths) // limit)
    for count in range(fewest, len(lengths) + 1):
        filled = [0] * count
        rows: list[list[int]] = [[] for _ in range(count)]
        for number in longest_first:
            shortest = filled.index(min(filled))
            filled[shortest] += lengths[number]
            rows[shortest].append(number)
        if max(filled) <= limit:
            break
    return [sorted(row) for row in rows]


def join_rows(samples: Sequence[Sample], rows: Sequence[Sequence[int]]) -> list[Sample]:
    """The samples of each row, by number, as one."""
    return [join_samples([samples[number] for number in row]) for row in rows]


def join_samples(samples: Sequence[Sample]) -> Sample:
    """One row of several samples, each a segment; a single sample is returned as it is."""
    if len(samples) == 1:
        return samples[0]
    row = Sample([], [], [], [], [], [], [], [])
    for segment, sample in enumerate(samples):
        offset = len(row.input_ids)
        row.input_ids += sample.input_ids
        row.labels += sample.labels
        row.loss_weights += sample.loss_weights
        row.position_ids += sample.position_ids
        row.segment_ids += [segment] * len(sample.input_ids)
        row.branch_ids += sample.branch_ids
        row.images += sample.images
        row.image_spans += [(start + offset, stop + offset) for start, stop in sample.image_spans]
        row.sources += sample.sources
        row.mixture_sources += sample.mixture_sources
    return row
