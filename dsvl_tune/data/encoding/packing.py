"""Several conversations in one row, each as if it stood alone (`models/attention.py` holds them apart).

Message trees are conversations about the same images: the row holds the images once. The field's term is from Molmo2.
The common beginning is the shared prefix; each conversation continues it in a branch that sees the prefix and itself
only, at the positions it would have alone. Packed rows hold conversations and trees that have nothing in common.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain, takewhile

from dsvl_tune.core.types import Conversation, ImageRef, Sample


def tree_key(conversation: Conversation) -> Hashable | None:
    """Conversations with equal keys fit into one tree: same system prompt, same beginning up to the last image.

    None for a conversation without images, or with an image after the first turn: it stays a row of its own.
    """
    first = conversation.turns[0].parts
    last_image = max(
        (i for i, part in enumerate(first) if isinstance(part, ImageRef)), default=None
    )
    if last_image is None or len(conversation.images) > sum(
        isinstance(part, ImageRef) for part in first
    ):
        return None
    beginning = tuple(
        part.name if isinstance(part, ImageRef) else part for part in first[: last_image + 1]
    )
    kinds = tuple(isinstance(part, ImageRef) for part in first[: last_image + 1])
    return conversation.system, beginning, kinds


def tree(samples: Sequence[Sample], image_token_id: int) -> Sample:
    """One row of several samples that show the same images; a single sample is returned as it is.

    The prefix is the longest common beginning that leaves every branch a token of its own before its first supervised one:
    a supervised token is predicted from the one before it in the row, which must be of the same conversation.

    Args:
        samples: encoded alone, with the same images by name and order, all inside the common beginning.
        image_token_id: marks the image positions.

    Raises:
        ValueError: the samples show different images, or an image lies after the common beginning.
    """
    if len(samples) == 1:
        return samples[0]
    sources = [source for sample in samples for source in sample.sources]
    names = [[pixels.name for pixels in sample.images] for sample in samples]
    if any(other != names[0] for other in names):
        raise ValueError(
            f"conversations of one row must show the same images in the same order: {sources}"
        )
    prefix = shared_length(samples)
    if any(image_token_id in sample.input_ids[prefix:] for sample in samples):
        raise ValueError(
            f"conversations of one row must begin alike up to their last image: {sources}"
        )
    row = Sample(
        input_ids=samples[0].input_ids[:prefix],
        labels=samples[0].labels[:prefix],
        loss_weights=samples[0].loss_weights[:prefix],
        position_ids=samples[0].position_ids[:prefix],
        segments=[],
        branches=[0] * prefix,
        images=samples[0].images,
        sources=sources,
    )
    for branch, sample in enumerate(samples, start=1):
        row.input_ids += sample.input_ids[prefix:]
        row.labels += sample.labels[prefix:]
        row.loss_weights += sample.loss_weights[prefix:]
        row.position_ids += sample.position_ids[prefix:]
        row.branches += [branch] * (len(sample.input_ids) - prefix)
    row.segments = [0] * len(row.input_ids)
    return row


def shared_length(samples: Sequence[Sample]) -> int:
    """Tokens of the common beginning, short of the last token before the first supervised one of any sample."""
    columns = zip(*(sample.input_ids for sample in samples), strict=False)
    common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    first_supervised = [
        next(i for i, weight in enumerate(sample.loss_weights) if weight) for sample in samples
    ]
    return min(common, *(first - 1 for first in first_supervised))


def pack(samples: Sequence[Sample], limit_tokens: int) -> list[Sample]:
    """The samples in few rows of up to `limit_tokens`, the rows about equally long: a batch is as wide as its longest.

    The longest sample goes first, each to the row that is the shortest so far (Graham's longest processing time first);
    while a row comes out too long, one more is taken. In a row the samples keep their order.

    Args:
        samples: at least one; where one is longer than the limit, its length is the limit of all.
        limit_tokens: longest row, image tokens counted.
    """
    lengths = [len(sample.input_ids) for sample in samples]
    longest_first = sorted(range(len(samples)), key=lambda i: -lengths[i])
    limit = max(limit_tokens, lengths[longest_first[0]])
    for rows in range(-(-sum(lengths) // limit), len(samples) + 1):
        filled = [0] * rows
        members: list[list[int]] = [[] for _ in filled]
        for i in longest_first:
            shortest = filled.index(min(filled))
            filled[shortest] += lengths[i]
            members[shortest].append(i)
        if max(filled) <= limit:
            break
    return [joined([samples[i] for i in sorted(row)]) for row in members]


def joined(samples: Sequence[Sample]) -> Sample:
    """One row of several samples, each a segment."""
    if len(samples) == 1:
        return samples[0]
    columns = {
        name: list(chain.from_iterable(getattr(sample, name) for sample in samples))
        for name in (
            "input_ids",
            "labels",
            "loss_weights",
            "position_ids",
            "branches",
            "images",
            "sources",
        )
    }
    segments = [number for number, sample in enumerate(samples) for _ in sample.input_ids]
    return Sample(**columns, segments=segments)
