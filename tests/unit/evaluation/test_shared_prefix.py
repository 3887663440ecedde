"""Greedy answers with shared prefixes equal those of transformers' generate, token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_deepseek_vl2 import build_deepseek_vl2
from transformers import DynamicCache

from dsvl_tune.core.types import Conversation, Turn
from dsvl_tune.data.encoding.collate import collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.demo.charts import chart_row
from dsvl_tune.evaluation.generation.generate import generate_ids, greedy_ids
from dsvl_tune.evaluation.generation.growing_cache import growing_cache
from dsvl_tune.evaluation.generation.shared_prefix import (
    PrefixGroup,
    branches_per_row,
    prefix_groups,
)
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model

IMAGE = 9


def questions() -> list[Conversation]:
    """Questions about three images in turns, one of two images, a long one, and two of none."""
    rows = [chart_row(seed, "test") for seed in (1, 2, 3)]
    mixed = [row[number] for number in range(4) for row in rows[: 3 - number % 2]]
    first, second = (row[0].images[0] for row in rows[:2])
    both = Conversation((Turn("user", (first, "and ", second, "differ how?")),), "two")
    behind = Conversation((Turn("user", ("What is it? ", first)),), "behind")
    long = Conversation((Turn("user", ("Why? " * 60,)),), "long")
    text = Conversation((Turn("user", ("Why?",)),), "text")
    return [*mixed, both, behind, long, text]


# All of them take a row each; the first ten, about three images, share three rows.
@pytest.mark.parametrize(("count", "max_new_tokens"), [(None, 1), (None, 12), (10, 12)])
def test_answers_are_those_of_generate(
    checkpoint: Path, count: int | None, max_new_tokens: int
) -> None:
    opened = open_checkpoint(checkpoint)
    model = create_model(opened).eval()
    prompts = [encode_prompt(one, opened.processor) for one in questions()[:count]]
    batch = normalize_images(collate_prompts(prompts, opened.processor.pad_id), opened.processor)
    # Ends at which some answers stop early: the third token of the first one, among others.
    answers = generate_ids(model, batch, 12)
    model.generation_config.eos_token_id = [int(answers[0, 2]), int(answers[1, 5])]
    expected = generate_ids(model, batch, max_new_tokens)
    assert torch.equal(greedy_ids(model, batch, max_new_tokens), expected)
    if max_new_tokens > 1:
        assert len({int((row == row[-1]).sum()) for row in expected}) > 1


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_answers_of_latent_attention_are_those_of_generate(tmp_path: Path, size: str) -> None:
    opened = open_checkpoint(build_deepseek_vl2(tmp_path, size))
    model = create_model(opened).eval()
    prompts = [encode_prompt(one, opened.processor) for one in questions()[:8]]
    batch = normalize_images(collate_prompts(prompts, opened.processor.pad_id), opened.processor)
    assert torch.equal(greedy_ids(model, batch, 8), generate_ids(model, batch, 8))


def test_settings_that_change_greedy_answers_are_kept(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    model = create_model(opened).eval()
    prompts = [encode_prompt(one, opened.processor) for one in questions()[:3]]
    batch = normalize_images(collate_prompts(prompts, opened.processor.pad_id), opened.processor)
    plain = greedy_ids(model, batch, 8)
    model.generation_config.suppress_tokens = [int(plain[0, 0])]
    others = greedy_ids(model, batch, 8)
    assert torch.equal(others, generate_ids(model, batch, 8))
    assert not torch.equal(others, plain)


@pytest.mark.parametrize(
    ("ids", "slots", "groups"),
    [
        ([[1, 9, 2, 3], [1, 9, 2, 4, 5]], [[0], [0]], [PrefixGroup([0, 1], 3)]),
        ([[1, 9, 2, 3], [1, 9, 2, 3]], [[0], [0]], [PrefixGroup([0, 1], 3)]),
        ([[1, 9, 2], [1, 9, 2]], [[0], [1]], [PrefixGroup([0], 2), PrefixGroup([1], 2)]),
        # The image comes after words that differ.
        ([[1, 2, 9, 3], [1, 4, 9, 3]], [[0], [0]], [PrefixGroup([0], 3), PrefixGroup([1], 3)]),
        # Too little is shared.
        ([[1, 2], [1, 3, 4, 5, 6, 7]], [[], []], [PrefixGroup([0], 1), PrefixGroup([1], 5)]),
    ],
)
def test_groups(ids: list[list[int]], slots: list[list[int]], groups: list[PrefixGroup]) -> None:
    assert prefix_groups(ids, slots, IMAGE) == groups


@pytest.mark.parametrize(
    ("sizes", "branches"),
    [
        ([8, 8], 8),
        ([1, 1, 1], 1),
        ([8, 1, 1], 2),
        ([8, 1, 1, 1, 1], 1),
        ([8, 7, 6], 8),
        ([6, 3, 3], 3),
        ([40], 40),
    ],
)
def test_rows_have_few_empty_slots(sizes: list[int], branches: int) -> None:
    assert branches_per_row(sizes) == branches


def test_the_cache_holds_what_transformers_own_holds() -> None:
    torch.manual_seed(0)
    ours, theirs = growing_cache(), DynamicCache()
    for width, rows in ((5, None), (3, [1, 1, 0]), (1, None), (70, [2]), (1, None)):
        for layer in (0, 1):
            count = ours.layers[0].keys.shape[0] if layer < len(ours.layers) else 2
            keys, values = torch.randn(2, count, 4, width, 8)
            found = ours.update(keys, values, layer)
            expected = theirs.update(keys, values, layer)
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        if rows is not None:
            ours.reorder_cache(torch.tensor(rows))
            theirs.reorder_cache(torch.tensor(rows))
    assert ours.get_seq_length() == theirs.get_seq_length() == 80
