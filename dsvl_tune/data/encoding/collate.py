"""From samples to a batch: padding, and every distinct image once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import (
    IGNORE_INDEX,
    Batch,
    CachedFeatures,
    EncodedImage,
    Prompts,
    Sample,
    VisionInput,
)
from dsvl_tune.data.encoding.tokenize import EncodedPrompt

BatchT = TypeVar("BatchT", bound=Batch | Prompts)


def collate(samples: Sequence[Sample], pad_id: int, mixture_sources: Sequence[str] = ()) -> Batch:
    """Right-pad samples to a batch.

    Args:
        samples: at least one.
        pad_id: token id of padding. Padding is never supervised, even where `pad_id` is the end
            token's id.
        mixture_sources: names of all sources of the mixture; () outside of one.
    """
    width = max(len(sample.input_ids) for sample in samples)
    return Batch(
        input_ids=pad_right([sample.input_ids for sample in samples], width, pad_id),
        labels=pad_right([sample.labels for sample in samples], width, IGNORE_INDEX),
        loss_weights=pad_right([sample.loss_weights for sample in samples], width, 0.0),
        position_ids=pad_right([sample.position_ids for sample in samples], width, 0),
        segment_ids=pad_right([sample.segment_ids for sample in samples], width, -1),
        branch_ids=pad_right([sample.branch_ids for sample in samples], width, -1),
        **stack_images([image for sample in samples for image in sample.images]),
        sources=list(chain.from_iterable(sample.sources for sample in samples)),
        mixture_sources=list(mixture_sources),
        mixture_ids=mixture_ids(samples, width, mixture_sources) if mixture_sources else None,
    )


def mixture_ids(samples: Sequence[Sample], width: int, mixture_sources: Sequence[str]) -> Tensor:
    """The place in `mixture_sources` of each token's source: [B, width] int64."""
    rows = []
    for sample in samples:
        places = [mixture_sources.index(name) for name in sample.mixture_sources]
        rows.append([places[segment] for segment in sample.segment_ids])
    return pad_right(rows, width, -1)


def collate_prompts(
    prompts: Sequence[EncodedPrompt], pad_id: int, numbers: Sequence[int] | None = None
) -> Prompts:
    """Left-pad prompts to a batch, so that every answer begins in the same column.

    Args:
        prompts: at least one.
        pad_id: token id of padding.
        numbers: position of each prompt in the set that is answered; None counts from 0.
    """
    width = max(len(prompt.input_ids) for prompt in prompts)
    input_ids = []
    attention_mask = []
    for prompt in prompts:
        padding = width - len(prompt.input_ids)
        input_ids.append([pad_id] * padding + prompt.input_ids)
        attention_mask.append([0] * padding + [1] * len(prompt.input_ids))
    return Prompts(
        input_ids=torch.tensor(input_ids),
        attention_mask=torch.tensor(attention_mask),
        image_counts=[len(prompt.images) for prompt in prompts],
        **stack_images([image for prompt in prompts for image in prompt.images]),
        references=[list(prompt.references) for prompt in prompts],
        scoring=[prompt.scoring for prompt in prompts],
        image_names=[[image.name for image in prompt.images] for prompt in prompts],
        question_types=[prompt.question_type for prompt in prompts],
        questions=[prompt.question for prompt in prompts],
        sources=[prompt.source for prompt in prompts],
        numbers=list(range(len(prompts)) if numbers is None else numbers),
    )


def pad_right(rows: Sequence[Sequence[float]], width: int, value: float) -> Tensor:
    """Rows filled up to `width`: [B, width], int64 or float32 as the rows are."""
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def stack_images(slots: Sequence[EncodedImage]) -> dict[str, Any]:
    """The fields of a `VisionBatch`: each distinct image (by name and token count) once.

    Args:
        slots: one image per image slot of the batch, in reading order.
    """
    distinct = {image.identity: image for image in slots}
    inputs = [image for image in distinct.values() if isinstance(image, VisionInput)]
    cached = [image for image in distinct.values() if isinstance(image, CachedFeatures)]
    places = {image.identity: place for place, image in enumerate([*inputs, *cached])}
    return {
        "vision_inputs": concatenate([image.tensors for image in inputs]),
        "image_index": torch.tensor([places[image.identity] for image in slots], dtype=torch.int64),
        "features": concatenate([image.tensors for image in cached]),
        "feature_keys": [image.cache_key for image in inputs if image.cache_key],
    }


def concatenate(images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate the tensors of several images by name.

    Args:
        images: of each, by name [C, ...] of any dtype.

    Returns:
        By name [sum of C, ...], same dtypes; {} for no image.
    """
    names = images[0] if images else {}
    return {name: torch.cat([tensors[name] for tensors in images]) for name in names}


def normalize_images(batch: BatchT, processor: Processor) -> BatchT:
    """The batch with its vision inputs as the model takes them, on the device where they are."""
    vision_inputs = processor.family.normalize(batch.vision_inputs, processor)
    return replace(batch, vision_inputs=vision_inputs)
