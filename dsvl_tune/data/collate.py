"""From samples to a batch: padding, and every distinct image once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from dsvl_tune.data.encode import EncodedPrompt
from dsvl_tune.schema import IGNORE_INDEX, Batch, Pixels, Prompts, Sample


def collate(samples: Sequence[Sample], pad_id: int) -> Batch:
    """Right-padded rows as a `Batch`. The pad id is never learnt, even where it equals the end token's."""
    width = max(len(sample.input_ids) for sample in samples)
    low, high, index = stack_images([pixels for sample in samples for pixels in sample.images])
    return Batch(
        input_ids=pad_right([sample.input_ids for sample in samples], width, pad_id),
        labels=pad_right([sample.labels for sample in samples], width, IGNORE_INDEX),
        loss_weights=pad_right([sample.loss_weights for sample in samples], width, 0.0),
        position_ids=pad_right([sample.position_ids for sample in samples], width, 0),
        branches=pad_right([sample.branches for sample in samples], width, -1),
        pixel_values=low,
        high_res_pixel_values=high,
        image_index=index,
        origins=list(chain.from_iterable(sample.origins for sample in samples)),
    )


def collate_prompts(prompts: Sequence[EncodedPrompt], pad_id: int) -> Prompts:
    """Left-padded prompts as `Prompts`, so that every answer starts in the same column."""
    width = max(len(prompt.input_ids) for prompt in prompts)
    low, high, index = stack_images([pixels for prompt in prompts for pixels in prompt.images])
    pads = [width - len(prompt.input_ids) for prompt in prompts]
    return Prompts(
        input_ids=torch.tensor([[pad_id] * n + prompt.input_ids for n, prompt in zip(pads, prompts, strict=True)]),
        attention_mask=torch.tensor([[0] * n + [1] * (width - n) for n in pads]),
        pixel_values=low,
        high_res_pixel_values=high,
        image_index=index,
        references=[prompt.reference for prompt in prompts],
        kinds=[prompt.kind for prompt in prompts],
        questions=[prompt.question for prompt in prompts],
        origins=[prompt.origin for prompt in prompts],
    )


def collate_own(
    numbered: Sequence[tuple[int, Any]], make: Callable[..., Batch], share: tuple[int, int], **settings: Any
) -> Batch:
    """A batch that `make` collates of rows with their numbers, in which the rows of other processes weigh nothing.

    Those fill a share up to the length of the others, and would else be counted twice.

    Args:
        numbered: number and row. make: rows and `settings` -> batch. share: (rank, number of processes).
    """
    rank, world_size = share
    batch = make([row for _, row in numbered], **settings)
    own = torch.tensor([number % world_size == rank for number, _ in numbered])
    return replace(batch, loss_weights=batch.loss_weights * own[:, None])


def pad_right(rows: Sequence[Sequence[float]], width: int, value: float) -> Tensor:
    """[B, width]; int64 or float32 as the rows are."""
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def stack_images(slots: Sequence[Pixels]) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Distinct images (by name) in order of first appearance.

    Returns:
        low branch [I, 3, S_low, S_low] or None without images, high branch [I, 3, S_high, S_high] or None without
        images or such a branch, and [M] int64: which of the I images each slot shows.
    """
    images = {pixels.name: pixels for pixels in slots}
    order = {name: i for i, name in enumerate(images)}
    index = torch.tensor([order[pixels.name] for pixels in slots], dtype=torch.int64)
    highs = [pixels.high for pixels in images.values() if pixels.high is not None]
    low = torch.stack([pixels.low for pixels in images.values()]) if images else None
    return low, torch.stack(highs) if highs else None, index
