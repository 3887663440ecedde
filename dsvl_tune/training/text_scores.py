"""How well a model predicts a text that it reads: its cross entropy, window by window."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dsvl_tune.core.types import IGNORE_INDEX, Texts
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.token_scores import CORRECT, LOSS, SCORED
from dsvl_tune.training.objectives.chunked_cross_entropy import score_tokens
from dsvl_tune.training.objectives.supervised import hidden_states


@torch.no_grad()
def score_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Texts
) -> list[Answer]:
    """A record of each window: no answer, but the sums that perplexity and token accuracy take.

    Args:
        model: the complete model, in eval mode.
        tokenizer: of the checkpoint.
        texts: on the model's device.

    Returns:
        The text of each window stands as its reference.
    """
    targets = texts.labels[:, 1:]
    scored = targets != IGNORE_INDEX
    hidden = hidden_states(model, texts)[:, :-1][scored]
    losses, correct = score_tokens(model.lm_head, hidden, targets[scored])
    each = torch.stack([losses, correct.float(), torch.ones_like(losses)], dim=1)
    sums = torch.zeros(len(targets), 3, dtype=torch.float64)
    sums.index_add_(0, scored.nonzero()[:, 0].cpu(), each.cpu().double())
    return [
        Answer(
            source=texts.sources[row],
            question_type="",
            question="",
            references=(tokenizer.decode(targets[row][scored[row]]),),
            text="",
            number=texts.numbers[row],
            fields={LOSS: loss, CORRECT: int(right), SCORED: int(count)},
        )
        for row, (loss, right, count) in enumerate(sums.tolist())
    ]
