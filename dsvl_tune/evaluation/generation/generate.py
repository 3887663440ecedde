"""Answers by generation, greedy or sampled, in left-padded batches.

Every distinct image of a batch is encoded once. Greedy answers also share the prefix of questions
about one image, and an answer that ended leaves the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RepetitionPenaltyLogitsProcessor,
    TextStreamer,
)

from dsvl_tune.core.types import Prompts
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.generation.prompt_trees import read_prompts, read_tokens
from dsvl_tune.models.runtime.encode_images import encode_images
from dsvl_tune.models.runtime.finite_outputs import finite_logits
from dsvl_tune.models.runtime.fsdp import is_sharded

PLAIN_SETTINGS = {
    "_from_model_config",
    "bos_token_id",
    "do_sample",
    "eos_token_id",
    "pad_token_id",
    "temperature",
    "top_k",
    "top_p",
    "transformers_version",
    "use_cache",
}
"""Keys of a generation config that do not change greedy answers."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled. The defaults are those of the official demo (cli_chat.py).

    Attributes:
        temperature: above 0.
        top_p: share of the probability mass that is sampled from, 0..1.
        repetition_penalty: 1 penalizes nothing. It counts the answer's own tokens alone, as in
            the demo, whose decoder is given embeddings and never sees the prompt's ids;
            otherwise every image token and each earlier end token would be penalized.
        top_k: the demo leaves transformers' default.
    """

    temperature: float = 0.2
    top_p: float = 0.95
    repetition_penalty: float = 1.1
    top_k: int = 50

    def settings(self, prompt_tokens: int) -> dict[str, Any]:
        """Arguments of transformers' `generate`.

        Args:
            prompt_tokens: width of the prompt, padding counted.
        """
        penalty = RepetitionPenaltyLogitsProcessor(
            self.repetition_penalty, prompt_ignore_length=prompt_tokens
        )
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "logits_processor": LogitsProcessorList([penalty]),
        }


@torch.no_grad()
def generate_ids(
    model: PreTrainedModel,
    prompts: Prompts,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    streamer: TextStreamer | None = None,
) -> Tensor:
    """Ids of the model's answers.

    Prompts are left-padded, so every answer starts in the same column.

    Args:
        model: in eval mode, on the device of the prompts.
        prompts: what is asked.
        max_new_tokens: longest answer.
        sampling: how to sample, from torch's generator; None is greedy.
        streamer: receives every token when it is generated; for a single prompt.

    Returns:
        [B, N] int64 with N <= max_new_tokens; the pad id after each answer's end token.

    Raises:
        UserError: logits are not finite.
    """
    width = prompts.input_ids.shape[1]
    images = encode_images(model, prompts)
    settings: dict[str, Any] = sampling.settings(width) if sampling else {"do_sample": False}
    if images:
        settings["mm_encoder_outputs"] = images
    with finite_logits(model, lambda: _read(model, prompts)):
        ids: Tensor = model.generate(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            max_new_tokens=max_new_tokens,
            streamer=streamer,
            **settings,
        )
    return ids[:, width:]


def _read(model: PreTrainedModel, prompts: Prompts) -> None:
    """Compute prompts once, from their images on."""
    images = encode_images(model, prompts)
    model(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        logits_to_keep=1,
        **({"mm_encoder_outputs": images} if images else {}),
    )


@torch.no_grad()
def greedy_ids(model: PreTrainedModel, prompts: Prompts, max_new_tokens: int) -> Tensor:
    """Ids of the model's greedy answers: those of `generate_ids`, sooner.

    A model that is sharded, or whose generation config changes what is greedy, answers by
    `generate_ids`.

    Args:
        model: in eval mode, on the device of the prompts.
        prompts: what is asked.
        max_new_tokens: longest answer.

    Returns:
        [B, N] int64 with N <= max_new_tokens; the pad id after each answer's end token.

    Raises:
        UserError: logits are not finite.
    """
    config = model.generation_config
    if is_sharded(model) or set(config.to_diff_dict()) - PLAIN_SETTINGS:
        return generate_ids(model, prompts, max_new_tokens)
    with finite_logits(model, lambda: _read(model, prompts)):
        return _greedy_ids(model, prompts, max_new_tokens)


def _greedy_ids(model: PreTrainedModel, prompts: Prompts, max_new_tokens: int) -> Tensor:
    """`greedy_ids` of a model with plain settings that is not sharded."""
    config = model.generation_config
    ends = torch.tensor(config.eos_token_id, device=model.device).reshape(-1)
    padding = ends[0] if config.pad_token_id is None else config.pad_token_id
    read = read_prompts(model, prompts)
    going = torch.arange(len(read.leaves), device=model.device)
    columns = []
    while True:
        token = read.logits.argmax(dim=-1)
        column = torch.full((len(prompts.input_ids),), int(padding), device=model.device)
        column[going] = token
        columns.append(column)
        goes_on = ~torch.isin(token, ends)
        if len(columns) == max_new_tokens or not goes_on.any():
            return torch.stack(columns, dim=1)
        if not goes_on.all():
            kept = goes_on.nonzero().flatten()
            read.select(kept.tolist())
            going, token = going[kept], token[kept]
        read_tokens(model, read, token[:, None].tolist())


def answer_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Prompts,
    max_new_tokens: int,
) -> list[Answer]:
    """The greedy answer to each prompt: its text up to the end token, not scored yet.

    Args:
        model: in eval mode, on the device of the prompts.
        tokenizer: of the checkpoint.
        prompts: what is asked.
        max_new_tokens: longest answer.
    """
    return answers_of(model, tokenizer, prompts, greedy_ids(model, prompts, max_new_tokens))


def answers_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Prompts, ids: Tensor
) -> list[Answer]:
    """The answers that generated tokens are, not scored yet.

    Args:
        model: whose config knows the image token.
        tokenizer: of the checkpoint.
        prompts: what was asked.
        ids: [B, N] int64, as `greedy_ids` gives them.
    """
    complete = (ids == tokenizer.eos_token_id).any(dim=1)
    before_end = (ids == tokenizer.eos_token_id).cumsum(dim=1) == 0
    tokens = (before_end.sum(dim=1) + complete).tolist()
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    asked = prompt_texts(model, tokenizer, prompts)
    return [
        Answer(
            source=prompts.sources[row],
            question_type=prompts.question_types[row],
            question=prompts.questions[row],
            references=tuple(prompts.references[row]),
            text=text.strip(),
            images=tuple(prompts.image_names[row]),
            prompt=asked[row],
            complete=bool(complete[row]),
            tokens=tokens[row],
            number=prompts.numbers[row],
            fields=prompts.scoring[row],
        )
        for row, text in enumerate(texts)
    ]


def prompt_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Prompts
) -> list[str]:
    """Each prompt as text, with a single image token for each run of them.

    Args:
        model: whose config knows the image token.
        tokenizer: of the checkpoint.
        prompts: what is asked.
    """
    image_token = model.config.image_token_id
    texts = []
    for ids, mask in zip(prompts.input_ids.tolist(), prompts.attention_mask.tolist(), strict=True):
        own = ids[mask.index(1) :]
        pairs = zip([None, *own], own, strict=False)
        kept = [one for before, one in pairs if one != image_token or before != image_token]
        texts.append(tokenizer.decode(kept))
    return texts
