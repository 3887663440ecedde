"""From vision inputs to visual tokens, at once or in two steps that a feature cache can separate.

The first step ends in named tensors, computed without gradient, each the last point up to which
every part is frozen. Of I images:

    aligned      [I, V, D], the whole vision side is frozen: the visual tokens themselves
    siglip       [I, V, W], output of SigLIP; the aligner trains
    sam          [I, V, W], output of SAM after downsampling; the aligner trains
    sam_neck     [I, W, G, G], or sam_last [I, G, G, W] before the neck; the downsampling or a neck
                 trains
    sam_neck_hd  [I, W, G, G], or sam_global [I, G, G, W] before that neck: of the first global
                 layer, likewise

G is the side of SAM's grid of patches, W the width of the tower or neck.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Plan, Shapes
from dsvl_tune.families.deepseek_vl.pixels import SAM_INPUT, SIGLIP_INPUT
from dsvl_tune.families.deepseek_vl.sizes import (
    downsampled_widths,
    sam_config_of,
    sam_grid,
    visual_tokens,
)

TOWERS = ("siglip", "sam")
AFTER_SAM = ("sam_neck", "sam_neck_hd", "downsample")


def encode_images(model: PreTrainedModel, vision_inputs: Mapping[str, Tensor]) -> Tensor:
    """The visual tokens of images.

    Args:
        model: a complete model.
        vision_inputs: by name [I, 3, S, S] float32, normalized.

    Returns:
        [I, V, D] in the model's dtype.
    """
    output = model.model.get_image_features(**vision_inputs, return_dict=True)
    tokens: Tensor = output.pooler_output
    return tokens


def cacheable_features(plan: Plan) -> dict[str, set[str]]:
    """Names of the tensors that a feature cache can keep -> the parts that compute each.

    Args:
        plan: one entry for each part that the model has.

    Raises:
        UserError: a vision tower trains.
    """
    trained = {part for part, part_plan in plan.items() if part_plan.mode != "frozen"}
    for tower in TOWERS:
        if tower in trained:
            raise UserError(
                f"model.feature_cache: {tower} trains ({plan[tower].mode}), so the features of an "
                f"image change with every step. Freeze it (model.parts.{tower}.mode: frozen) or "
                "set model.feature_cache to null."
            )
    sam_parts = {part for part in plan if part == "sam" or part in AFTER_SAM}
    if not trained & {"aligner", *AFTER_SAM}:
        return {"aligned": {"siglip", "aligner", *sam_parts}}
    features = {"siglip": {"siglip"}}
    if not sam_parts:
        return features
    if not trained & set(AFTER_SAM):
        return {**features, "sam": sam_parts}
    if "sam_neck" in trained:
        features["sam_last"] = {"sam"}
    else:
        features["sam_neck"] = {"sam", "sam_neck"}
    if "sam_neck_hd" in trained:
        features["sam_global"] = {"sam"}
    else:
        features["sam_neck_hd"] = {"sam", "sam_neck_hd"}
    return features


def finishing_parts(names: set[str]) -> set[str]:
    """The parts that `finish_images` uses.

    `high_res_vision_alpha` belongs to sam_neck_hd and is applied after the downsampling.
    """
    if "aligned" in names:
        return set()
    if names <= {"siglip", "sam"}:
        return {"aligner"}
    parts = {"aligner", "downsample", "sam_neck_hd"}
    return parts | {"sam_neck"} if "sam_last" in names else parts


def feature_shapes(config: PretrainedConfig, names: set[str]) -> Shapes:
    """Shape of each cached tensor of one image, [1, ...]."""
    vision = config.vision_config
    tokens = visual_tokens(config)
    shapes: Shapes = {
        "aligned": (1, tokens, config.text_config.hidden_size),
        "siglip": (1, tokens, vision.hidden_size),
    }
    sam = sam_config_of(config)
    if sam is not None:
        grid = sam_grid(sam)
        shapes["sam"] = (1, tokens, downsampled_widths(sam)[-1])
        shapes["sam_last"] = (1, grid, grid, sam.hidden_size)
        shapes["sam_global"] = (1, grid, grid, sam.hidden_size)
        shapes["sam_neck"] = (1, sam.output_channels, grid, grid)
        shapes["sam_neck_hd"] = (1, sam.output_channels, grid, grid)
    return {name: shapes[name] for name in sorted(names)}


@torch.no_grad()
def compute_features(
    model: PreTrainedModel, names: set[str], vision_inputs: Mapping[str, Tensor]
) -> list[dict[str, Tensor]]:
    """The first step.

    Args:
        model: a complete model.
        names: from `cacheable_features`.
        vision_inputs: by name [I, 3, S, S] float32, normalized.

    Returns:
        Of each image, by name [1, ...] in the model's dtype.
    """
    features = _compute_batch(model, names, vision_inputs)
    images = len(vision_inputs[SIGLIP_INPUT])
    return [
        {name: features[name][image : image + 1] for name in sorted(names)}
        for image in range(images)
    ]


def _compute_batch(
    model: PreTrainedModel, names: set[str], vision_inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The features of a batch of images; may hold more than `names`.

    Args:
        model: a complete model.
        names: from `cacheable_features`.
        vision_inputs: by name [I, 3, S, S] float32, normalized.

    Returns:
        By name [I, ...] in the model's dtype.
    """
    if "aligned" in names:
        return {"aligned": encode_images(model, vision_inputs)}
    core = model.model
    siglip = core.vision_model(vision_inputs[SIGLIP_INPUT], return_dict=True)
    features = {"siglip": siglip.last_hidden_state}
    if "sam" in names:
        output = core.get_high_res_image_features(vision_inputs[SAM_INPUT])
        features["sam"] = output.last_hidden_state
    elif SAM_INPUT in vision_inputs:
        output = core.high_res_vision_model(
            pixel_values=vision_inputs[SAM_INPUT], output_hidden_states=True, return_dict=True
        )
        features["sam_last"] = output.hidden_states[-1]
        features["sam_neck"] = output.last_hidden_state
        # The first hidden state is the embeddings.
        features["sam_global"] = output.hidden_states[core.global_attn_index + 1]
        if "sam_neck_hd" in names:
            features["sam_neck_hd"] = core.high_res_vision_neck(features["sam_global"])
    return features


def finish_images(model: PreTrainedModel, features: Mapping[str, Tensor]) -> Tensor:
    """The second step, with the gradient of what trains in it.

    Args:
        model: a complete model; only `finishing_parts` need weights.
        features: from `compute_features`, by name [I, ...] in the model's dtype.

    Returns:
        Visual tokens [I, V, D] in the model's dtype.
    """
    if "aligned" in features:
        return features["aligned"]
    core = model.model
    inputs = [features["siglip"]]
    if hasattr(core, "high_res_vision_neck"):
        inputs.append(features["sam"] if "sam" in features else _downsample(model, features))
    tokens: Tensor = core.aligner(*inputs)
    return tokens


def _downsample(model: PreTrainedModel, features: Mapping[str, Tensor]) -> Tensor:
    """SAM's two outputs through what follows its layers.

    Args:
        model: a complete model; only `finishing_parts` need weights.
        features: from `compute_features`, by name [I, ...] in the model's dtype.

    Returns:
        [I, V, W] in the model's dtype.

    Source: `get_high_res_image_features` of transformers' DeepseekVLHybridModel.
    """
    core = model.model
    if "sam_neck" in features:
        last = features["sam_neck"]
    else:
        last = core.high_res_vision_model.vision_encoder.neck(features["sam_last"])
    if "sam_neck_hd" in features:
        first_global = features["sam_neck_hd"]
    else:
        first_global = core.high_res_vision_neck(features["sam_global"])
    project, alpha = core.high_res_vision_proj, core.high_res_vision_alpha
    return (project(last) + project(first_global) * alpha).flatten(2).transpose(1, 2)
