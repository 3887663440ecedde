"""Answers to prompts, greedily, with every distinct image encoded once."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dsvl_tune.schema import Prompts
from dsvl_tune.training.loss import encode_images


@torch.no_grad()
def generate_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Prompts, max_new_tokens: int
) -> list[str]:
    """The model's answer to each prompt: text up to the end token, outer blanks removed.

    The model must be in eval mode. Prompts are left-padded, so every answer starts in the same column.
    """
    images = encode_images(model, prompts)
    ids = model.generate(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        **({"mm_encoder_outputs": images} if images else {}),
    )
    answers = tokenizer.batch_decode(ids[:, prompts.input_ids.shape[1] :], skip_special_tokens=True)
    return [answer.strip() for answer in answers]
