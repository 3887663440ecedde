"""Batched, left-padded generation against one prompt at a time through transformers' own path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dsvl_tune.core.types import Conversation, Turn
from dsvl_tune.data.encoding.collate import collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.demo.charts import chart_row
from dsvl_tune.evaluation.generation.generate import Sampling, answer_prompts, generate_ids
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.runtime.encode_images import encode_images


def test_a_batch_answers_as_its_rows_alone(checkpoint: Path) -> None:
    processor, model = (
        open_checkpoint(checkpoint).processor,
        create_model(open_checkpoint(checkpoint)),
    )
    text_only = Conversation((Turn("user", ("Name a color, any color at all.",)),), "text")
    conversations = [*chart_row(1, "test")[:3], *chart_row(2, "test")[:2], text_only]
    prompts = [encode_prompt(conversation, processor) for conversation in conversations]
    batch = normalize_images(collate_prompts(prompts, processor.pad_id), processor)
    answers = answer_prompts(model, processor.tokenizer, batch, max_new_tokens=6)
    for prompt, answer in zip(prompts, answers, strict=True):
        inputs = {"input_ids": torch.tensor([prompt.input_ids])}
        alone = normalize_images(collate_prompts([prompt], processor.pad_id), processor)
        inputs |= {name: t[alone.image_index] for name, t in alone.vision_inputs.items()}
        ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)[
            0, len(prompt.input_ids) :
        ]
        assert answer.text == processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert answer.complete is (processor.eos_id in ids)
        assert (answer.source, answer.references) == (prompt.source, prompt.references)
    assert len({answer.text for answer in answers}) > 1
    assert [answer.number for answer in answers] == list(range(len(prompts)))
    assert answers[-1].references == ()


def test_generation_stops_at_the_end_token(checkpoint: Path) -> None:
    """The trap: Llama's default end id (2), which the published config implies, never comes."""
    processor, model = (
        open_checkpoint(checkpoint).processor,
        create_model(open_checkpoint(checkpoint)),
    )
    assert model.generation_config.eos_token_id == processor.eos_id
    # A head that makes the end token the likeliest everywhere.
    hidden = torch.zeros_like(model.lm_head.weight)
    ids = torch.tensor([processor.tokenizer("User: Hello\n\nAssistant:")["input_ids"]])
    states = model.model(input_ids=ids).last_hidden_state[0, -1]
    hidden[processor.eos_id] = states
    model.lm_head.weight.data.copy_(hidden)
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=20)
    assert out[0, ids.shape[1] :].tolist() == [processor.eos_id]
    asked = Conversation((Turn("user", ("Hello",)),), "text", system="")
    prompts = collate_prompts([encode_prompt(asked, processor)], processor.pad_id)
    (answer,) = answer_prompts(model, processor.tokenizer, prompts, max_new_tokens=20)
    assert (answer.text, answer.complete) == ("", True)


def test_sampling_is_the_official_demos(checkpoint: Path) -> None:
    """The demo gives its decoder embeddings, so the penalty never sees the prompt's ids."""
    processor, model = (
        open_checkpoint(checkpoint).processor,
        create_model(open_checkpoint(checkpoint)),
    )
    asked = encode_prompt(chart_row(1, "test")[0], processor)
    prompts = normalize_images(collate_prompts([asked], processor.pad_id), processor)
    # So warm that samples differ, and a penalty so strong that it shows.
    sampling = Sampling(temperature=1.0, repetition_penalty=2.0)

    def drawn(seed: int) -> list[int]:
        torch.manual_seed(seed)
        ids: list[int] = generate_ids(model, prompts, 24, sampling)[0].tolist()
        return ids

    def by_transformers(seed: int, **inputs: Any) -> list[int]:
        torch.manual_seed(seed)
        settings = {
            "temperature": 1.0,
            "top_p": 0.95,
            "repetition_penalty": 2.0,
            "top_k": 50,
            "do_sample": True,
        }
        inputs["attention_mask"] = prompts.attention_mask
        ids: list[int] = model.generate(**inputs, **settings, max_new_tokens=24)[0].tolist()
        return ids[-24:]

    with torch.no_grad():
        images = encode_images(model, prompts)
        assert images is not None
        embeddings = model.get_input_embeddings()(prompts.input_ids)
        shown = (prompts.input_ids == processor.image_token_id)[..., None]
        embeddings = embeddings.masked_scatter(shown, images["image"].pooler_output)
    answers = [drawn(seed) for seed in range(3)]
    assert answers == [by_transformers(seed, inputs_embeds=embeddings) for seed in range(3)]
    penalized_prompt = {"input_ids": prompts.input_ids, "mm_encoder_outputs": images}
    assert answers != [by_transformers(seed, **penalized_prompt) for seed in range(3)]
    assert answers == [drawn(seed) for seed in range(3)]
    assert len({tuple(answer) for answer in answers}) == 3
