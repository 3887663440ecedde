"""The loss of a batch as two sums, so that every mean can be taken over a whole optimizer step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dsvl_tune.models.attention import attention_mask
from dsvl_tune.schema import IGNORE_INDEX, Batch, Prompts


def encode_images(model: PreTrainedModel, batch: Batch | Prompts) -> dict[str, BaseModelOutputWithPooling] | None:
    """Visual tokens for every image slot, each distinct image encoded once.

    Returns:
        What the transformers classes take as `mm_encoder_outputs`: features [M, V, D]. None without images.
    """
    if batch.pixel_values is None:
        return None
    pixels = {"pixel_values": batch.pixel_values}
    if batch.high_res_pixel_values is not None:
        pixels["high_res_pixel_values"] = batch.high_res_pixel_values
    features = model.model.get_image_features(**pixels, return_dict=True).pooler_output
    return {"image": BaseModelOutputWithPooling(pooler_output=features[batch.image_index])}


def supervised_loss(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Weighted sum of the losses of the learnt tokens, and the sum of their weights.

    The head and the cross entropy see the N supervised positions alone. Rows are held apart by a dense mask, with
    `use_cache=False`: with a cache the decoder ignores restarted positions, silently.

    Returns:
        (loss_sum, weight_sum), float32 scalars; a mean is loss_sum / weight_sum, over as many batches as one likes.
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
    weights = batch.loss_weights[:, 1:][learnt]
    return torch.dot(losses, weights), weights.sum()
