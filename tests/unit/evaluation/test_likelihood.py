"""Likelihoods of answers with shared prefixes equal transformers' own loss, one at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dsvl_tune.core.types import Conversation, Turn
from dsvl_tune.data.encoding.collate import collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode, encode_prompt
from dsvl_tune.demo.charts import chart_row
from dsvl_tune.evaluation.generation.likelihood import answer_ids, answer_likelihoods
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model


def questions() -> list[Conversation]:
    """Questions about two images, about two at once, and about none."""
    rows = [chart_row(seed, "test") for seed in (1, 2)]
    asked = [replace(one, turns=one.turns[:1]) for row in rows for one in row[:2]]
    first, second = (row[0].images[0] for row in rows)
    both = Conversation((Turn("user", (first, "and ", second, "differ how?")),), "two")
    text = Conversation((Turn("user", ("Why?",)),), "text")
    return [*asked, both, text]


OPTIONS = (["7"], ["blue", "the red one is taller"], ["A", "B. red", "12.5"])


def test_likelihoods_are_losses_one_at_a_time(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    processor = opened.processor
    model = create_model(opened).eval()
    asked = questions()
    options = [OPTIONS[number % 3] for number in range(len(asked))]

    def loss(conversation: Conversation, text: str) -> float:
        answered = (*conversation.turns, Turn("assistant", (text,)))
        sample = encode(replace(conversation, turns=answered), processor)
        alone = collate_prompts([encode_prompt(conversation, processor)], processor.pad_id)
        shown = normalize_images(alone, processor)
        inputs = processor.family.forward_inputs(shown.vision_inputs, shown.image_index)
        ids, labels = torch.tensor([sample.input_ids]), torch.tensor([sample.labels])
        with torch.no_grad():
            return float(model(input_ids=ids, labels=labels, **inputs).loss)

    expected = [
        [-loss(one, text) for text in texts] for one, texts in zip(asked, options, strict=True)
    ]
    prompts = [encode_prompt(one, processor) for one in asked]
    batch = normalize_images(collate_prompts(prompts, processor.pad_id), processor)
    ids = [
        [answer_ids(one, text, processor) for text in texts]
        for one, texts in zip(asked, options, strict=True)
    ]
    found = answer_likelihoods(model, batch, ids)
    assert [len(one) for one in found] == [len(one) for one in options]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_an_answer_of_one_token(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    model = create_model(opened).eval()
    prompts = [encode_prompt(one, opened.processor) for one in questions()[:2]]
    batch = normalize_images(collate_prompts(prompts, opened.processor.pad_id), opened.processor)
    first = [[5], [6], [5, 7]]
    alone = [
        [answer_likelihoods(model, batch, [[ids], [ids]])[row][0] for ids in first]
        for row in (0, 1)
    ]
    found = answer_likelihoods(model, batch, [first, first])
    assert found[0] == pytest.approx(alone[0], rel=1e-5)
    assert found[1] == pytest.approx(alone[1], rel=1e-5)
