"""Supervised fine-tuning: cross entropy of the tokens of the answers."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.types import IGNORE_INDEX, Batch
from dsvl_tune.models.runtime.attention_mask import decoder_attention
from dsvl_tune.models.runtime.encode_images import encode_images
from dsvl_tune.training.objectives.base import Sums
from dsvl_tune.training.objectives.chunked_cross_entropy import head_loss, score_tokens


def supervised_loss(model: PreTrainedModel, batch: Batch) -> Sums:
    """Weighted cross entropy of the supervised tokens; the weight of a token is that of its turn.

    Head and cross entropy run on the N supervised positions only. Without gradients, the tokens
    are counted, too: `token_loss` and `token_accuracy` are means in which each has the weight 1.
    Tokens of weight 0 are left out: they belong to another process.

    Args:
        model: the complete model.
        batch: on the model's device.

    Returns:
        The sums over all supervised tokens; as `loss_text` and `loss_image` those of conversations
        without and with an image; as `loss/SOURCE` those of each source of a mixture.
    """
    # Looked up once, and before anything is computed: a GPU is waited for to count them.
    rows, columns = (batch.labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
    targets = batch.labels[rows, columns + 1]
    weights = batch.loss_weights[rows, columns + 1]
    hidden = hidden_states(model, batch)[rows, columns]
    tokens = {}
    if torch.is_grad_enabled():
        loss, losses = head_loss(model.lm_head, hidden, targets, weights)
    else:
        losses, correct = score_tokens(model.lm_head, hidden, targets)
        loss = torch.dot(losses, weights)
        tokens = token_sums(losses, correct, weights > 0)
    with_image = shows_image(batch, model.config.image_token_id)[rows, columns + 1]
    sums = torch.stack([losses * weights, weights])
    text = sums.where(~with_image, 0.0).sum(1)
    image = sums.where(with_image, 0.0).sum(1)
    logged = {"loss_text": text, "loss_image": image, **tokens}
    if batch.mixture_ids is not None:
        mixture_ids = batch.mixture_ids[rows, columns + 1]
        for place, name in enumerate(batch.mixture_sources):
            logged[f"loss/{name}"] = sums.where(mixture_ids == place, 0.0).sum(1)
    return Sums(loss, text[1] + image[1], logged)


def token_sums(losses: Tensor, correct: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Sums over tokens, each with the number of tokens.

    Args:
        losses: [N] float32, cross entropies.
        correct: [N] bool, whether each token is the most probable one.
        counted: [N] bool, which tokens count.

    Returns:
        `token_loss` and `token_accuracy`, each float32 [2].
    """
    count = counted.sum().float()
    return {
        "token_loss": torch.stack([losses[counted].sum(), count]),
        "token_accuracy": torch.stack([correct[counted].sum().float(), count]),
    }


def hidden_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The decoder's last hidden states, which the head reads.

    The conversations of a row are kept apart. `use_cache=False` is necessary: with a cache the
    decoder silently ignores positions that start again.

    Args:
        model: the complete model.
        batch: on the model's device.

    Returns:
        [B, T, D] in the model's compute dtype.
    """
    output = model.model(
        input_ids=batch.input_ids,
        **decoder_attention(model, batch.segment_ids, batch.branch_ids, batch.position_ids),
        mm_encoder_outputs=encode_images(model, batch),
        use_cache=False,
    )
    states: Tensor = output.last_hidden_state
    return states


def shows_image(batch: Batch, image_token_id: int) -> Tensor:
    """Whether each token's conversation, or the tree it is in, shows an image.

    Args:
        batch: any.
        image_token_id: id that stands for a visual token.

    Returns:
        [B, T] bool.
    """
    segment_ids = batch.segment_ids.clamp(min=0)
    visual = (batch.input_ids == image_token_id).long()
    counts = torch.zeros_like(segment_ids).scatter_add_(1, segment_ids, visual)
    return counts.gather(1, segment_ids) > 0
