"""Prompts read into a key-value cache, those about one image sharing its prefix.

The tokens that prompts about the same images have in common (system prompt, image tokens, the
beginning of the question) are computed once for all of them. Their keys and values are then copied
into the row of each prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from dsvl_tune.core.types import Prompts
from dsvl_tune.evaluation.generation.growing_cache import growing_cache
from dsvl_tune.models.runtime.encode_images import encode_images

LEAST_SHARED = 0.5
"""Prompts share a prefix that is at least this part of the longest of them."""


@dataclass
class ReadRows:
    """Rows of tokens that a model has read.

    Attributes:
        cache: keys and values of K positions, padding included.
        attention_mask: [B, K] int64, 0 on padding.
        logits: [B, vocabulary] of the token after the last one.
    """

    cache: Cache
    attention_mask: Tensor
    logits: Tensor

    def select(self, rows: Tensor) -> None:
        """Keep some rows; a row may be repeated.

        Args:
            rows: [B'] int64, numbers of rows.
        """
        self.cache.reorder_cache(rows)
        self.attention_mask = self.attention_mask[rows]
        self.logits = self.logits[rows]


class PrefixGroup(NamedTuple):
    """Prompts that begin alike.

    Attributes:
        rows: numbers of the prompts.
        length: tokens that they share, at least one less than any of them has.
    """

    rows: list[int]
    length: int


def read_prompts(model: PreTrainedModel, prompts: Prompts) -> ReadRows:
    """Read prompts, what they share only once.

    Args:
        model: in eval mode, on the device of the prompts.
        prompts: left-padded.

    Returns:
        The rows, in the order of the prompts.
    """
    ids = unpadded(prompts)
    slots = image_slots(prompts)
    groups = prefix_groups(ids, slots, model.config.image_token_id)
    shown = [slot for group in groups for slot in slots[group.rows[0]]]
    index = torch.tensor(shown, dtype=torch.int64, device=prompts.image_index.device)
    images = encode_images(model, replace(prompts, image_index=index))
    prefixes = [ids[group.rows[0]][: group.length] for group in groups]
    read = read_tokens(model, prefixes, images=images)
    group_of = {row: number for number, group in enumerate(groups) for row in group.rows}
    read.select(torch.tensor([group_of[row] for row in range(len(ids))], device=model.device))
    rests = [row[groups[group_of[number]].length :] for number, row in enumerate(ids)]
    return read_tokens(model, rests, after=read)


def read_tokens(
    model: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    *,
    after: ReadRows | None = None,
    images: dict[str, Any] | None = None,
) -> ReadRows:
    """Read tokens, of rows that may have been read before.

    Args:
        model: in eval mode.
        ids: of each row, at least one; rows are padded on the left.
        after: the same rows before these tokens; its cache is continued.
        images: of the rows' image slots, as `encode_images` gives them.

    Returns:
        The rows with these tokens.
    """
    cache, mask, logits = forward_tokens(model, ids, after=after, images=images, keep=1)
    return ReadRows(cache, mask, logits[:, -1])


def forward_tokens(
    model: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    *,
    keep: int,
    after: ReadRows | None = None,
    images: dict[str, Any] | None = None,
) -> tuple[Cache, Tensor, Tensor]:
    """One forward pass over tokens, as `read_tokens`.

    Args:
        model: in eval mode.
        ids: of each row, at least one.
        keep: how many of the last positions get logits (K).
        after: the same rows before these tokens.
        images: of the rows' image slots.

    Returns:
        The cache, the attention mask of its positions ([B, positions] int64), and the logits
        [B, K, vocabulary] of the tokens after the last K positions.
    """
    width = max(len(row) for row in ids)
    padding = int(model.config.image_token_id == 0)  # any id but that of the image token does
    padded = [[padding] * (width - len(row)) + list(row) for row in ids]
    own_mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
    mask = torch.tensor(own_mask, device=model.device)
    if after is None:
        cache = growing_cache()
    else:
        cache = after.cache
        mask = torch.cat([after.attention_mask, mask], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -width:]
    outputs = model(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
        **({"mm_encoder_outputs": images} if images else {}),
    )
    return cache, mask, outputs.logits


def unpadded(prompts: Prompts) -> list[list[int]]:
    """Token ids of each prompt without its padding."""
    rows = zip(prompts.input_ids.tolist(), prompts.attention_mask.tolist(), strict=True)
    return [ids[mask.index(1) :] for ids, mask in rows]


def image_slots(prompts: Prompts) -> list[list[int]]:
    """Which of the distinct images fills each image slot of each prompt."""
    index = prompts.image_index.tolist()
    ends = list(accumulate(prompts.image_counts, initial=0))
    return [index[start:stop] for start, stop in pairwise(ends)]


def prefix_groups(
    ids: Sequence[Sequence[int]], slots: Sequence[Sequence[int]], image_token_id: int
) -> list[PrefixGroup]:
    """Group prompts about the same images whose shared prefix holds all image tokens.

    A prompt that shares too little is alone, and all of it but its last token is its prefix.

    Args:
        ids: token ids of each prompt.
        slots: its images.
        image_token_id: of the model.
    """
    by_images: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, images in enumerate(slots):
        by_images[tuple(images)].append(row)
    groups = []
    for rows in by_images.values():
        shared = common_prefix([ids[row] for row in rows])
        beyond = any(image_token_id in ids[row][shared:] for row in rows)
        longest = max(len(ids[row]) for row in rows)
        if len(rows) > 1 and not beyond and shared >= LEAST_SHARED * longest:
            groups.append(PrefixGroup(rows, shared))
        else:
            groups += [PrefixGroup([row], len(ids[row]) - 1) for row in rows]
    return groups


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Number of tokens that rows begin with alike, at most one less than the shortest has."""
    shortest = min(len(row) for row in rows) - 1
    first = rows[0]
    for place in range(shortest):
        if any(row[place] != first[place] for row in rows):
            return place
    return shortest
