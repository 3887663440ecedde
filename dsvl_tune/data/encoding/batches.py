"""Rows of conversations as batches: what a loader's worker does with what it reads."""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_tune.core.types import Batch, Conversation, Processor, Prompts, Sample
from dsvl_tune.data.encoding.collate import collate, collate_prompts
from dsvl_tune.data.encoding.packing import pack, tree
from dsvl_tune.data.encoding.tokenize import OnOverflow, encode, encode_prompt
from dsvl_tune.data.images.lookup import EncodedImage


def make_batch(
    rows: Sequence[list[Conversation]],
    processor: Processor,
    max_tokens: int | None,
    on_overflow: OnOverflow,
    pack_tokens: int | None = None,
) -> Batch:
    """Rows encoded, packed if wanted, and collated; an image that several of them show is read once.

    Arguments are those of `ConversationDataModule`. Packing stays within these rows, so the order of the data, and with
    it a resume, knows nothing of it.
    """
    return make_share(
        list(enumerate(rows)), (0, 1), processor, max_tokens, on_overflow, pack_tokens
    )


def make_share(
    numbered: Sequence[tuple[int, list[Conversation]]],
    share: tuple[int, int],
    processor: Processor,
    max_tokens: int | None,
    on_overflow: OnOverflow,
    pack_tokens: int | None = None,
) -> Batch:
    """`make_batch` of rows with their numbers, in which the rows of other processes weigh nothing.

    Those fill a share up to the length of the others, and would else be counted twice.

    Args:
        numbered: number and row. share: (rank, number of processes). The others are those of `make_batch`.
    """
    rank, world_size = share
    seen: dict[str, EncodedImage] = {}
    samples = []
    for number, row in numbered:
        sample = make_sample(row, processor, max_tokens, on_overflow, seen)
        if number % world_size != rank:
            sample.loss_weights = [0.0] * len(sample.loss_weights)
        samples.append(sample)
    return collate(samples if pack_tokens is None else pack(samples, pack_tokens), processor.pad_id)


def make_sample(
    row: list[Conversation],
    processor: Processor,
    max_tokens: int | None,
    on_overflow: OnOverflow,
    seen: dict[str, EncodedImage] | None = None,
) -> Sample:
    """A row encoded, several conversations as a message tree."""
    seen = {} if seen is None else seen
    samples = [encode(one, processor, "training", max_tokens, on_overflow, seen) for one in row]
    return tree(samples, processor.image_token_id)


def make_prompts(
    numbered: Sequence[tuple[int, Conversation]],
    processor: Processor,
    max_tokens: int | None,
    on_overflow: OnOverflow,
) -> Prompts:
    """Prompts encoded and collated, each with its number in the set that is answered."""
    seen: dict[str, EncodedImage] = {}
    prompts = [
        encode_prompt(conversation, processor, max_tokens, on_overflow, seen)
        for _, conversation in numbered
    ]
    return collate_prompts(prompts, processor.pad_id, [number for number, _ in numbered])
