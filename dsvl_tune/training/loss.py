"""The loss of a batch as two sums, so that every mean can be taken over a whole optimizer step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dsvl_tune.models.attention import attention_mask
from dsvl_tune.models.vision import visual_tokens
from dsvl_tune.schema import IGNORE_INDEX, Batch, Prompts


def encode_images(model: PreTrainedModel, batch: Batch | Prompts) -> dict[str, BaseModelOutputWithPooling] | None:
    """Visual tokens for every image slot, each distinct image encoded once.

    Returns:
        What the transformers classes take as `mm_encoder_outputs`: features [M, V, D]. None without images.
    """
    if batch.features is not None:
        tokens = visual_tokens(model, batch.features)
        return {"image": BaseModelOutputWithPooling(pooler_output=tokens[batch.image_index])}
    if batch.pixel_values is None:
        return None
    pixels = {"pixel_values": batch.pixel_values}
    if batch.high_res_pixel_values is not None:
        pixels["high_res_pixel_values"] = batch.high_res_pixel_values
    features = model.model.get_image_features(**pixels, return_dict=True).pooler_output
    return {"image": BaseModelOutputWithPooling(pooler_output=features[batch.image_index])}


def supervised_loss(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Weighted sum of the losses of the learnt tokens, and the sum of their weights.

    Returns:
        (loss_sum, weight_sum), float32 scalars; a mean is loss_sum / weight_sum, over as many batches as one likes.
    """
    losses, weights, _ = token_losses(model, batch)
    return torch.dot(losses, weights), weights.sum()


def sums_by_modality(losses: Tensor, weights: Tensor, shows_image: Tensor) -> Tensor:
    """The two sums of `supervised_loss`, for rows of text and for rows with an image.

    Args:
        losses, weights, shows_image: [N], from `token_losses`.

    Returns:
        [2, 2]: (loss_sum, weight_sum) of text, then of images; together they are the sums over all.
    """
    sums = torch.stack([losses.detach() * weights, weights])
    return torch.stack([sums[:, ~shows_image].sum(1), sums[:, shows_image].sum(1)])


def token_losses(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and weight of each learnt token, and whether its row shows an image.

    The head and the cross entropy see the N supervised positions alone. Rows are held apart by a dense mask, with
    `use_cache=False`: with a cache the decoder ignores restarted positions, silently.

    Returns:
        [N] float32, [N] float32 and [N] bool.
    """
    hidden = model.model(
        input_ids=batch.input_ids,
        attention_mask=attention_mask(batch.branches),
        position_ids=batch.position_ids,
        mm_encoder_outputs=encode_images(model, batch),
        use_cache=False,
    ).last_hidden_state
    targets = batch.labels[:, 1:]
    learnt = targets != IGNORE_INDEX
    logits = model.lm_head(hidden[:, :-1][learnt]).float()
    losses = F.cross_entropy(logits, targets[learnt], reduction="none")
    shows_image = (batch.input_ids == model.config.image_token_id).any(1, keepdim=True).expand_as(learnt)
    return losses, batch.loss_weights[:, 1:][learnt], shows_image[learnt]
