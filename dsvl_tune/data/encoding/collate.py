"""From samples to a batch: padding, and every distinct image once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from dsvl_tune.core.types import IGNORE_INDEX, Batch, Features, Pixels, Prompts, Sample
from dsvl_tune.data.encoding.tokenize import EncodedPrompt


def collate(samples: Sequence[Sample], pad_id: int) -> Batch:
    """Right-padded rows as a `Batch`. The pad id is never supervised, even where it equals the end token's."""
    width = max(len(sample.input_ids) for sample in samples)
    return Batch(
        input_ids=pad_right([sample.input_ids for sample in samples], width, pad_id),
        labels=pad_right([sample.labels for sample in samples], width, IGNORE_INDEX),
        loss_weights=pad_right([sample.loss_weights for sample in samples], width, 0.0),
        position_ids=pad_right([sample.position_ids for sample in samples], width, 0),
        segments=pad_right([sample.segments for sample in samples], width, -1),
        branches=pad_right([sample.branches for sample in samples], width, -1),
        **stack_images([image for sample in samples for image in sample.images]),
        sources=list(chain.from_iterable(sample.sources for sample in samples)),
    )


def collate_prompts(
    prompts: Sequence[EncodedPrompt], pad_id: int, numbers: Sequence[int] | None = None
) -> Prompts:
    """Left-padded prompts as `Prompts`, so that every answer starts in the same column.

    Args:
        prompts: at least one.
        pad_id: id of the padding token.
        numbers: position of each prompt in the set that is answered; None counts from 0.
    """
    width = max(len(prompt.input_ids) for prompt in prompts)
    pads = [width - len(prompt.input_ids) for prompt in prompts]
    return Prompts(
        input_ids=torch.tensor(
            [[pad_id] * n + prompt.input_ids for n, prompt in zip(pads, prompts, strict=True)]
        ),
        attention_mask=torch.tensor([[0] * n + [1] * (width - n) for n in pads]),
        **stack_images([image for prompt in prompts for image in prompt.images]),
        references=[list(prompt.references) for prompt in prompts],
        question_types=[prompt.question_type for prompt in prompts],
        questions=[prompt.question for prompt in prompts],
        sources=[prompt.source for prompt in prompts],
        numbers=list(range(len(prompts)) if numbers is None else numbers),
    )


def pad_right(rows: Sequence[Sequence[float]], width: int, value: float) -> Tensor:
    """[B, width]; int64 or float32 as the rows are."""
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def stack_images(slots: Sequence[Pixels | Features]) -> dict[str, Any]:
    """The fields of a batch that say what its slots show: distinct images (by name), those with pixels first.

    Returns:
        `pixel_values`, `high_res_pixel_values`, `image_index`, `features` and `feature_keys` of `Shown`.
    """
    images = {image.name: image for image in slots}
    pixels = [image for image in images.values() if isinstance(image, Pixels)]
    stored = [image for image in images.values() if isinstance(image, Features)]
    order = {
        name: i for i, name in enumerate([*(p.name for p in pixels), *(s.name for s in stored)])
    }
    highs = [image.high for image in pixels if image.high is not None]
    names = stored[0].tensors if stored else {}
    return {
        "pixel_values": torch.stack([image.low for image in pixels]) if pixels else None,
        "high_res_pixel_values": torch.stack(highs) if highs else None,
        "image_index": torch.tensor([order[image.name] for image in slots], dtype=torch.int64),
        "features": {name: torch.stack([one.tensors[name] for one in stored]) for name in names}
        or None,
        "feature_keys": [image.key for image in pixels if image.key],
    }
