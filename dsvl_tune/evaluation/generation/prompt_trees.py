"""Prompts read into a key-value cache, those about one image as branches of one tree.

The tokens that prompts about the same images have in common (system prompt, image tokens, the
beginning of the question) are computed once, and their keys and values are held once: the prompts,
and the answers to them, go on as branches of the same row, each of which sees its own path alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from dsvl_tune.core.types import Prompts
from dsvl_tune.evaluation.generation.growing_cache import growing_cache
from dsvl_tune.evaluation.generation.shared_prefix import (
    PrefixGroup,
    branches_per_row,
    image_slots,
    prefix_groups,
    unpadded,
)
from dsvl_tune.models.runtime.encode_images import encode_images

SHARED, PADDING = 0, -1  # ids of what is no branch


@dataclass(frozen=True)
class Leaf:
    """Where a text goes on.

    Attributes:
        row: of the cache.
        path: ids of the branches whose tokens it sees, after the prefix of its row.
        length: tokens that it sees, which is the position of the next one.
    """

    row: int
    path: tuple[int, ...]
    length: int


@dataclass
class Trees:
    """Texts that a model has read.

    Attributes:
        cache: keys and values of K positions of R rows.
        branch_ids: [R, K] int64, the branch of each position; SHARED in the prefix of its row.
        leaves: where each text goes on.
        logits: [N, vocabulary] of each text's next token.
    """

    cache: Cache
    branch_ids: Tensor
    leaves: list[Leaf]
    logits: Tensor

    def select(self, numbers: Sequence[int]) -> None:
        """Keep some texts; one that is repeated goes on in as many branches.

        Args:
            numbers: of the texts.
        """
        times = Counter(numbers)
        first_new = 1 + max(max(leaf.path) for leaf in self.leaves)
        leaves = [
            self.leaves[number]
            if times[number] == 1
            else replace(self.leaves[number], path=(*self.leaves[number].path, first_new + place))
            for place, number in enumerate(numbers)
        ]
        rows = sorted({leaf.row for leaf in leaves})
        if len(rows) < len(self.branch_ids):
            kept = torch.tensor(rows, device=self.branch_ids.device)
            self.cache.reorder_cache(kept)
            self.branch_ids = self.branch_ids[kept]
            leaves = [replace(leaf, row=rows.index(leaf.row)) for leaf in leaves]
        self.leaves = leaves
        self.logits = self.logits[list(numbers)]


def read_prompts(model: PreTrainedModel, prompts: Prompts) -> Trees:
    """Read prompts, what they share only once.

    Args:
        model: in eval mode, on the device of the prompts.
        prompts: left-padded.

    Returns:
        The trees, with the prompts as texts in their order.
    """
    ids = unpadded(prompts)
    slots = image_slots(prompts)
    groups = prefix_groups(ids, slots, model.config.image_token_id)
    shown = [slot for group in groups for slot in slots[group.rows[0]]]
    index = torch.tensor(shown, dtype=torch.int64, device=prompts.image_index.device)
    images = encode_images(model, replace(prompts, image_index=index))
    cache, branch_ids = _read_prefixes(
        model, [ids[group.rows[0]][: group.length] for group in groups], images
    )
    row_groups, leaves = _rows_and_leaves(groups)
    if len(row_groups) > len(groups):
        copied = torch.tensor(row_groups, device=model.device)
        cache.reorder_cache(copied)
        branch_ids = branch_ids[copied]
    read = Trees(cache, branch_ids, leaves, torch.empty(0))
    read_tokens(model, read, [row[leaf.length :] for row, leaf in zip(ids, leaves, strict=True)])
    return read


def read_tokens(model: PreTrainedModel, trees: Trees, ids: Sequence[Sequence[int]]) -> None:
    """Read the next tokens of each text.

    Args:
        model: in eval mode.
        trees: the texts.
        ids: of each text, at least one.
    """
    trees.logits = forward_tokens(model, trees, ids, every=False)[:, -1]
    trees.leaves = [
        replace(leaf, length=leaf.length + len(new))
        for leaf, new in zip(trees.leaves, ids, strict=True)
    ]


def forward_tokens(
    model: PreTrainedModel, trees: Trees, ids: Sequence[Sequence[int]], *, every: bool
) -> Tensor:
    """One forward pass over the next tokens of each text.

    A row has as many slots as texts go on in the one with the most, each as wide as the most
    tokens; tokens are at the end of their slot.

    Args:
        model: in eval mode.
        trees: the texts; their keys and values are extended, their leaves and logits are not.
        ids: of each text, at least one.
        every: whether all tokens get logits, or the last one of each text.

    Returns:
        [N, T, vocabulary] logits of the token after each; T is the most tokens, or 1.
    """
    device = model.device
    rows = [leaf.row for leaf in trees.leaves]
    slots = _numbers_within(rows)
    shape = (len(trees.branch_ids), max(slots) + 1, max(map(len, ids)))
    depth = max(len(leaf.path) for leaf in trees.leaves)
    tokens = torch.full(shape, int(model.config.image_token_id == 0))  # any that is no image's
    positions = torch.zeros(shape, dtype=torch.int64)
    own = torch.full(shape, PADDING)
    paths = torch.full((*shape, depth), SHARED)
    for leaf, slot, new in zip(trees.leaves, slots, ids, strict=True):
        place = (leaf.row, slot, slice(shape[2] - len(new), None))
        tokens[place] = torch.tensor(new)
        positions[place] = torch.arange(leaf.length, leaf.length + len(new))
        own[place] = leaf.path[-1]
        paths[place] = torch.tensor([*leaf.path, *[SHARED] * (depth - len(leaf.path))])
    trees.branch_ids = torch.cat([trees.branch_ids, own.flatten(1).to(device)], dim=1)
    width = shape[2]
    lasts = torch.arange(width - 1, shape[1] * width, width, device=device)
    outputs = model(
        input_ids=tokens.flatten(1).to(device),
        attention_mask=_path_mask(trees.branch_ids, paths.flatten(1, 2).to(device)),
        position_ids=positions.flatten(1).to(device),
        past_key_values=trees.cache,
        use_cache=True,
        logits_to_keep=0 if every else lasts,
    )
    logits: Tensor = outputs.logits.unflatten(1, (shape[1], -1))[rows, slots]
    return logits


def _rows_and_leaves(groups: Sequence[PrefixGroup]) -> tuple[list[int], list[Leaf]]:
    """The number of the group in each row, and where each prompt goes on after its prefix."""
    most = branches_per_row([len(group.rows) for group in groups])
    row_groups: list[int] = []
    leaves: dict[int, Leaf] = {}
    for number, group in enumerate(groups):
        parts = -(-len(group.rows) // most)
        for part in range(parts):
            for prompt in group.rows[part::parts]:
                leaves[prompt] = Leaf(len(row_groups), (prompt + 1,), group.length)
            row_groups.append(number)
    return row_groups, [leaves[prompt] for prompt in sorted(leaves)]


def _read_prefixes(
    model: PreTrainedModel, prefixes: Sequence[Sequence[int]], images: dict[str, Any] | None
) -> tuple[Cache, Tensor]:
    """The cache of the rows' prefixes, and the branch ids of its positions."""
    width = max(len(row) for row in prefixes)
    padding = int(model.config.image_token_id == 0)
    padded = [[padding] * (width - len(row)) + list(row) for row in prefixes]
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prefixes])
    mask = mask.to(model.device)
    cache = growing_cache()
    model(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **({"mm_encoder_outputs": images} if images else {}),
    )
    return cache, torch.where(mask == 1, SHARED, PADDING)


def _path_mask(branch_ids: Tensor, paths: Tensor) -> Tensor:
    """Which positions the last ones attend to: those of their path, up to themselves.

    Padding attends to the shared prefix, so that its numbers stay finite.

    Args:
        branch_ids: [R, K] int64, of all positions.
        paths: [R, Q, depth] int64, of the last Q positions, filled up with SHARED.

    Returns:
        [R, 1, Q, K] bool.
    """
    keys = branch_ids[:, None, :]
    attends = keys == SHARED
    for level in paths.unbind(-1):
        attends = attends | (keys == level[:, :, None])
    queries, length = paths.shape[1], branch_ids.shape[1]
    causal = torch.ones(queries, length, dtype=torch.bool, device=branch_ids.device)
    return (attends & causal.tril(length - queries))[:, None]


def _numbers_within(rows: Sequence[int]) -> list[int]:
    """The number of each text among those of its row."""
    counts: Counter[int] = Counter()
    numbers = []
    for row in rows:
        numbers.append(counts[row])
        counts[row] += 1
    return numbers
