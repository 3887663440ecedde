"""Rows of conversations as batches: what a loader's worker does with what it reads."""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import Batch, Conversation, Prompts, Sample
from dsvl_tune.data.encoding.collate import collate, collate_prompts
from dsvl_tune.data.encoding.packing import merge_tree, pack, pack_padding
from dsvl_tune.data.encoding.tokenize import OnOverflow, encode, encode_prompt
from dsvl_tune.data.images.loader import ImageLoader


def make_batch(
    rows: Sequence[list[Conversation]],
    processor: Processor,
    max_tokens: int | None,
    on_overflow: OnOverflow,
    pack_tokens: int | None = None,
    loader: ImageLoader | None = None,
    mixture_sources: Sequence[str] = (),
) -> Batch:
    """Encode rows, pack them if requested or worth it, and collate them.

    An image that several rows show is loaded once. Packing stays within these rows, so neither the
    order of the data nor a resume depends on it.

    Args:
        rows: each a list of conversations, see `make_sample`.
        processor: of the checkpoint.
        max_tokens: longest conversation; None takes the checkpoint's context.
        on_overflow: what happens to a longer one, see `tokenize`.
        pack_tokens: longest packed row; None packs where `pack_padding` does.
        loader: of the images; what it has loaded already is not used. None has no caches.
        mixture_sources: names of all sources of the mixture; () outside of one.
    """
    return make_share(
        list(enumerate(rows)),
        (0, 1),
        processor,
        max_tokens,
        on_overflow,
        pack_tokens,
        loader,
        mixture_sources,
    )


def make_share(
    numbered: Sequence[tuple[int, list[Conversation]]],
    share: tuple[int, int],
    processor: Processor,
    max_tokens: int | None,
    on_overflow: OnOverflow,
    pack_tokens: int | None = None,
    loader: ImageLoader | None = None,
    mixture_sources: Sequence[str] = (),
) -> Batch:
    """`make_batch` of rows with their numbers, in which rows of other processes have weight 0.

    Those pad a rank's share to the length of the others, and would otherwise count twice.

    Args:
        numbered: number and row.
        share: (rank, number of processes).
        processor: as in `make_batch`.
        max_tokens: as in `make_batch`.
        on_overflow: as in `make_batch`.
        pack_tokens: as in `make_batch`.
        loader: as in `make_batch`.
        mixture_sources: as in `make_batch`.
    """
    rank, world_size = share
    loader = loader.fresh() if loader else ImageLoader()
    samples = []
    for number, row in numbered:
        sample = make_sample(row, processor, max_tokens, on_overflow, loader)
        if number % world_size != rank:
            sample.loss_weights = [0.0] * len(sample.loss_weights)
        samples.append(sample)
    samples = pack_padding(samples) if pack_tokens is None else pack(samples, pack_tokens)
    return collate(samples, processor.pad_id, mixture_sources)


def make_sample(
    row: list[Conversation],
    processor: Processor,
    max_tokens: int | None,
    on_overflow: OnOverflow,
    loader: ImageLoader | None = None,
) -> Sample:
    """A row encoded, several conversations as a message tree.

    Args:
        row: conversations that show the same images and begin alike up to the last one.
        processor: as in `make_batch`.
        max_tokens: as in `make_batch`.
        on_overflow: as in `make_batch`.
        loader: of the images; the conversations share them in any case.
    """
    loader = loader or ImageLoader()
    samples = [
        encode(conversation, processor, "training", max_tokens, on_overflow, loader)
        for conversation in row
    ]
    return merge_tree(samples)


def make_prompts(
    numbered: Sequence[tuple[int, Conversation]],
    processor: Processor,
    max_tokens: int | None,
    on_overflow: OnOverflow,
    loader: ImageLoader | None = None,
) -> Prompts:
    """Prompts encoded and collated, each with its number in the set that is answered.

    Args:
        numbered: number and conversation.
        processor: as in `make_batch`.
        max_tokens: as in `make_batch`.
        on_overflow: as in `make_batch`.
        loader: as in `make_batch`.
    """
    loader = loader.fresh() if loader else ImageLoader()
    prompts = []
    numbers = []
    for number, conversation in numbered:
        prompts.append(encode_prompt(conversation, processor, max_tokens, on_overflow, loader))
        numbers.append(number)
    return collate_prompts(prompts, processor.pad_id, numbers)
