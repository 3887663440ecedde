"""Rows of conversations as batches: what a loader's worker does with what it reads."""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_tune.data.collate import collate, collate_prompts
from dsvl_tune.data.encode import Overlong, encode, encode_prompt
from dsvl_tune.data.packing import tree
from dsvl_tune.data.seen import SeenImage
from dsvl_tune.schema import Batch, Conversation, Processor, Prompts, Sample


def make_batch(
    rows: Sequence[list[Conversation]], processor: Processor, max_tokens: int | None, overlong: Overlong
) -> Batch:
    """Rows encoded and collated; an image that several of them show is read once."""
    seen: dict[str, SeenImage] = {}
    return collate([make_sample(row, processor, max_tokens, overlong, seen) for row in rows], processor.pad_id)


def make_sample(
    row: list[Conversation],
    processor: Processor,
    max_tokens: int | None,
    overlong: Overlong,
    seen: dict[str, SeenImage] | None = None,
) -> Sample:
    """A row encoded, several conversations as a message tree."""
    seen = {} if seen is None else seen
    samples = [encode(one, processor, "training", max_tokens, overlong, seen) for one in row]
    return tree(samples, processor.image_token_id)


def make_prompts(
    conversations: Sequence[Conversation], processor: Processor, max_tokens: int | None, overlong: Overlong
) -> Prompts:
    """Prompts encoded and collated."""
    seen: dict[str, SeenImage] = {}
    prompts = [encode_prompt(c, processor, max_tokens, overlong, seen) for c in conversations]
    return collate_prompts(prompts, processor.pad_id)
