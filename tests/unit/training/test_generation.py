"""Batched, left-padded generation against one prompt at a time through transformers' own path."""

from __future__ import annotations

from pathlib import Path

import torch

from dsvl_tune.data.collate import collate_prompts
from dsvl_tune.data.encode import encode_prompt
from dsvl_tune.data.synthetic.charts import chart_row
from dsvl_tune.models.loading import load_model
from dsvl_tune.models.processor import load_processor
from dsvl_tune.schema import Conversation, Turn
from dsvl_tune.training.generation import generate_answers


def test_a_batch_answers_as_its_rows_alone(checkpoint: Path) -> None:
    processor, model = load_processor(checkpoint), load_model(checkpoint)
    text_only = Conversation((Turn("user", ("Name a colour, any colour at all.",)),), "text")
    conversations = [*chart_row(1, "test")[:3], *chart_row(2, "test")[:2], text_only]
    prompts = [encode_prompt(conversation, processor) for conversation in conversations]
    batch = collate_prompts(prompts, processor.pad_id)
    answers = generate_answers(model, processor.tokenizer, batch, max_new_tokens=6)
    for prompt, answer in zip(prompts, answers, strict=True):
        inputs = {"input_ids": torch.tensor([prompt.input_ids])}
        if prompt.images:
            inputs["pixel_values"] = torch.stack([image.low for image in prompt.images])
            if prompt.images[0].high is not None:
                inputs["high_res_pixel_values"] = torch.stack([image.high for image in prompt.images])  # type: ignore[misc]
        ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, len(prompt.input_ids) :]
        assert answer == processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert len(set(answers)) > 1


def test_generation_stops_at_the_end_token(checkpoint: Path) -> None:
    """The trap: Llama's default end id (2) never comes, so a model built from the published config runs on."""
    processor, model = load_processor(checkpoint), load_model(checkpoint)
    assert model.generation_config.eos_token_id == processor.eos_id
    # A head that makes the end token the likeliest everywhere.
    hidden = torch.zeros_like(model.lm_head.weight)
    ids = torch.tensor([processor.tokenizer("User: Hello\n\nAssistant:")["input_ids"]])
    states = model.model(input_ids=ids).last_hidden_state[0, -1]
    hidden[processor.eos_id] = states
    model.lm_head.weight.data.copy_(hidden)
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=20)
    assert out[0, ids.shape[1] :].tolist() == [processor.eos_id]
