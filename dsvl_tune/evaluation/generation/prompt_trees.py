"""Prompts read into a key-value cache, those about one image as branches of one tree.

The tokens that prompts about the same images have in common (system prompt, image tokens, the
beginning of the question) are computed once, and their keys and values are held once: the prompts,
and the answers to them, go on as branches of the same row, each of which sees its own path alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
    placed = _place_tokens(trees, slots, ids, padding=_no_image_token(model))
    _, slot_count, width = placed.tokens.shape
    trees.branch_ids = torch.cat([trees.branch_ids, placed.branches.flatten(1).to(device)], dim=1)
    lasts = torch.arange(width - 1, slot_count * width, width, device=device)
    outputs = model(
        input_ids=placed.tokens.flatten(1).to(device),
        attention_mask=_path_mask(trees.branch_ids, placed.paths.flatten(1, 2).to(device)),
        position_ids=placed.positions.flatten(1).to(device),
        past_key_values=trees.cache,
        use_cache=True,
        logits_to_keep=0 if every else lasts,
    )
    logits: Tensor = outputs.logits.unflatten(1, (slot_count, -1))[rows, slots]
    return logits


class _PlacedTokens(NamedTuple):
    """The next tokens of texts, each text in a slot of its row.

    A row has S slots, as many as texts go on in the row with the most; a slot is T wide, the most
    tokens of a text, and its tokens are at its end.

    Attributes:
        tokens: [R, S, T] int64.
        positions: [R, S, T] int64.
        branches: [R, S, T] int64, the branch that each token belongs to, or PADDING.
        paths: [R, S, T, depth] int64, the branches that each token sees, filled up with SHARED.
    """

    tokens: Tensor
    positions: Tensor
    branches: Tensor
    paths: Tensor


def _place_tokens(
    trees: Trees, slots: Sequence[int], ids: Sequence[Sequence[int]], padding: int
) -> _PlacedTokens:
    """Put the next tokens of each text into its slot."""
    shape = (len(trees.branch_ids), max(slots) + 1, max(map(len, ids)))
    depth = max(len(leaf.path) for leaf in trees.leaves)
    placed = _PlacedTokens(
        tokens=torch.full(shape, padding),
        positions=torch.zeros(shape, dtype=torch.int64),
        branches=torch.full(shape, PADDING),
        paths=torch.full((*shape, depth), SHARED),
    )
    for leaf, slot, new in zip(trees.leaves, slots, ids, strict=True):
        place = (leaf.row, slot, slice(shape[2] - len(new), None))
        placed.tokens[place] = torch.tensor(new)
        placed.positions[place] = torch.arange(leaf.length, leaf.length + len(new))
        placed.branches[place] = leaf.path[-1]
        placed.paths[place] = torch.tensor([*leaf.path, *[SHARED] * (depth - len(leaf.path))])
    return placed


def _no_image_token(model: PreTrainedModel) -> int:
    """A token id to pad with: any that is no image's."""
    return int(model.config.image_token_id == 0)


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
    padding = _no_image_token(model)
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
