"""The loss of a batch as two sums, so that every mean can be taken over a whole optimizer step."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.types import IGNORE_INDEX, Batch
from dsvl_tune.models.runtime.attention_mask import decoder_attention
from dsvl_tune.models.runtime.encode_images import encode_images
from dsvl_tune.training.objectives.chunked_cross_entropy import head_loss


def supervised_loss(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Weighted sum of the losses of the supervised tokens, and the sum of their weights.

    Returns:
        (loss_sum, weight_sum), float32 scalars; a mean is loss_sum / weight_sum, over as many batches as one likes.
    """
    loss_sum, sums = loss_by_modality(model, batch)
    return loss_sum, sums[:, 1].sum()


def loss_by_modality(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Weighted sum of the losses, and the two sums of `supervised_loss` for text and for conversations with an image.

    Head and cross entropy see the N supervised positions alone.

    Returns:
        loss_sum, and without a gradient [2, 2] float32: (loss_sum, weight_sum) of text, then of images; together they
        are the sums over all.
    """
    targets = batch.labels[:, 1:]
    supervised = targets != IGNORE_INDEX
    weights = batch.loss_weights[:, 1:][supervised]
    loss_sum, losses = head_loss(
        model.lm_head, hidden_states(model, batch)[:, :-1][supervised], targets[supervised], weights
    )
    image = shows_image(batch, model.config.image_token_id)[:, 1:][supervised]
    sums = torch.stack([losses * weights, weights])
    return loss_sum, torch.stack([sums[:, ~image].sum(1), sums[:, image].sum(1)])


def hidden_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """What the head reads, [B, T, D].

    The conversations of a row are held apart, with `use_cache=False`: with a cache the decoder ignores positions that
    start anew, silently.
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
    """Whether a token's conversation, or the tree it is in, shows an image: [B, T] bool."""
    segment_ids = batch.segment_ids.clamp(min=0)
    visual = (batch.input_ids == image_token_id).long()
    counts = torch.zeros_like(segment_ids).scatter_add_(1, segment_ids, visual)
    return counts.gather(1, segment_ids) > 0
