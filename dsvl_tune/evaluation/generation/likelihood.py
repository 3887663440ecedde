"""How likely a model finds given answers: all options of a question share its prefix."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import Conversation, Prompts, Turn
from dsvl_tune.data.encoding.tokenize import tokenize
from dsvl_tune.evaluation.generation.prompt_trees import forward_tokens, read_prompts

Ids = Sequence[int]


def answer_ids(conversation: Conversation, text: str, processor: Processor) -> list[int]:
    """The token ids of an answer as training has them, its end token included.

    Args:
        conversation: that ends with the question.
        text: of the answer.
        processor: of the checkpoint.

    Raises:
        UserError: the text cannot be an answer, or the conversation is too long with it.
    """
    answered = Conversation(
        (*conversation.turns, Turn("assistant", (text,))), conversation.source, conversation.system
    )
    tokens = tokenize(answered, processor)
    pairs = zip(tokens.labels, tokens.loss_weights, strict=True)
    return [label for label, weight in pairs if weight]


@torch.no_grad()
def answer_likelihoods(
    model: PreTrainedModel, prompts: Prompts, answers: Sequence[Sequence[Ids]]
) -> list[list[float]]:
    """The mean log-probability of the tokens of each answer (natural logarithm).

    It is the negative of the loss of a conversation with that answer.

    Args:
        model: in eval mode, on the device of the prompts.
        prompts: what is asked.
        answers: token ids of the answers to each prompt, each at least one.

    Returns:
        Of each prompt, of each of its answers.
    """
    read = read_prompts(model, prompts)
    owners = [row for row, of_prompt in enumerate(answers) for _ in of_prompt]
    candidates = list(chain.from_iterable(answers))
    read.select(owners)
    # What is read are the answers without their last tokens; one of a single token is read itself,
    # and nothing after it counts.
    inputs = [ids[:-1] or ids for ids in candidates]
    width = max(len(ids) for ids in inputs)
    logits = forward_tokens(model, read, inputs, every=True)
    found = iter(
        _mean_log_probability(read.logits[row], logits[row, width - len(inputs[row]) :], ids)
        for row, ids in enumerate(candidates)
    )
    return [[next(found) for _ in of_prompt] for of_prompt in answers]


def _mean_log_probability(first: Tensor, rest: Tensor, ids: Ids) -> float:
    """Mean log-probability of the tokens of one answer.

    Args:
        first: [vocabulary] logits of the first token.
        rest: [K, vocabulary] logits after each token that was read.
        ids: of the answer.
    """
    logits = torch.cat([first[None], rest])[: len(ids)].float()
    expected = torch.tensor(list(ids), device=logits.device)
    chosen = logits.log_softmax(dim=-1).gather(1, expected[:, None])
    return float(chosen.mean())
