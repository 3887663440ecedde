"""Answers to prompts: greedy or drawn, in left-padded batches, with every distinct image encoded once."""

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
from dsvl_tune.evaluation.metrics.relaxed_accuracy import accuracy_by_kind, relaxed_match
from dsvl_tune.models.runtime.encode_images import encode_images

Answer = dict[str, Any]
"""One answered prompt: source, kind, question, reference ("" if none), answer, whether it came to its end (`complete`),
and whether it is `right` (None without a reference)."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The defaults are those of the official demo (DeepSeek-VL: cli_chat.py).

    Attributes:
        temperature: above 0. top_p: share of the probability that is drawn from, 0..1.
        repetition_penalty: 1 has none. It counts the answer's own tokens alone, as in the demo, whose decoder is given
            embeddings and never sees the prompt's ids; otherwise every image token and each earlier end token of
            the conversation would be penalised.
        top_k: the demo leaves transformers' default.
    """

    temperature: float = 0.2
    top_p: float = 0.95
    repetition_penalty: float = 1.1
    top_k: int = 50

    def settings(self, prompt_tokens: int) -> dict[str, Any]:
        """Arguments of transformers' `generate` after a prompt of that many tokens, padding counted."""
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
    """The ids of the model's answers: [B, N] int64, N <= max_new_tokens, each filled up with the pad id after its end.

    Prompts are left-padded, so every answer starts in the same column.

    Args:
        model: in eval mode, on the device of the prompts.
        prompts: what is asked.
        max_new_tokens: longest answer.
        sampling: how to draw, from torch's generator; None takes the likeliest token each time.
        streamer: is given every token as it is made; for one prompt.
    """
    width = prompts.input_ids.shape[1]
    images = encode_images(model, prompts)
    ids: Tensor = model.generate(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        max_new_tokens=max_new_tokens,
        streamer=streamer,
        **(sampling.settings(width) if sampling else {"do_sample": False}),
        **({"mm_encoder_outputs": images} if images else {}),
    )
    return ids[:, width:]


def answer_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Prompts,
    max_new_tokens: int,
) -> list[Answer]:
    """The greedy answer to each prompt: text up to the end token, outer blanks removed. Arguments as `generate_ids`."""
    ids = generate_ids(model, prompts, max_new_tokens)
    ended = (ids == tokenizer.eos_token_id).any(dim=1).tolist()
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    records = []
    for row, text in enumerate(texts):
        answer, accepted = text.strip(), prompts.references[row]
        reference = accepted[0] if accepted else ""
        records.append(
            {
                "source": prompts.sources[row],
                "question_type": prompts.question_types[row],
                "question": prompts.questions[row],
                "reference": reference,
                "answer": answer,
                "complete": ended[row],
                "right": relaxed_match(answer, reference) if reference else None,
            }
        )
    return records


def score(answers: list[Answer]) -> dict[str, float]:
    """Metrics of the answered prompts that have a reference; none without any."""
    known = [answer for answer in answers if answer["reference"]]
    columns = (
        [answer[key] for answer in known] for key in ("answer", "reference", "question_type")
    )
    return accuracy_by_kind(*columns) if known else {}
