"""An image's way to visual tokens, cut in two: what frozen parts make of its pixels once, and what trains after that.

The first half gives named tensors without gradient, each the last point up to which everything is frozen:

    aligned      [V, D], when all of the vision side is frozen: the visual tokens themselves
    low          [V, C], SigLIP's output, the aligner trains
    high         [V, C], SAM's output after downsampling, the aligner trains
    sam_neck     [C, G, G], or sam_last [G, G, C] before the neck: the downsampling or a neck trains
    sam_neck_hd  [C, G, G], or sam_global [G, G, C] before that neck: of the first global layer, likewise

G is the side of SAM's grid of patches, C each tower's width.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.families.base import Plan, part_of
from dsvl_tune.families.deepseek_vl.parts import PARTS, SAM_PARTS
from dsvl_tune.families.deepseek_vl.sizes import downsampled_widths

Features = dict[str, Tensor]
TOWERS = ("siglip", "sam")


def frozen_features_of(plan: Plan) -> dict[str, set[str]]:
    """Names of the tensors that the frozen first half ends in -> the parts that each is made by.

    Args:
        plan: one entry for each part the model has.

    Raises:
        UserError: a tower trains, so nothing about an image stays the same.
    """
    trained = {part for part, how in plan.items() if how.mode != "frozen"}
    for tower in TOWERS:
        if tower in trained:
            raise UserError(
                f"model.feature_cache: {tower} trains ({plan[tower].mode}), so what it makes of an image changes with "
                f"every step and cannot be kept. Freeze it (model.parts.{tower}.mode: frozen) or leave the store out."
            )
    hybrid = "sam" in plan
    if not trained & {"aligner", *SAM_PARTS}:
        return {"aligned": {"siglip", "aligner", *(SAM_PARTS if hybrid else ())}}
    halves = {"low": {"siglip"}}
    if hybrid and not trained & set(SAM_PARTS):
        return halves | {"high": set(SAM_PARTS)}
    if hybrid:
        halves |= (
            {"sam_last": {"sam"}} if "sam_neck" in trained else {"sam_neck": {"sam", "sam_neck"}}
        )
        halves |= (
            {"sam_global": {"sam"}}
            if "sam_neck_hd" in trained
            else {"sam_neck_hd": {"sam", "sam_neck_hd"}}
        )
    return halves


def feature_shapes(config: PretrainedConfig, names: set[str]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of one image."""
    vision, sam = config.vision_config, getattr(config, "high_res_vision_config", None)
    tokens = (vision.image_size // vision.patch_size) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "aligned": (tokens, config.text_config.hidden_size),
        "low": (tokens, vision.hidden_size),
    }
    if sam is not None:
        grid = sam.image_size // sam.patch_size
        shapes["high"] = (
            tokens,
            downsampled_widths(sam)[-1],
        )  # transformers fixes the downsampling at 2 and 4 times
        shapes["sam_last"] = shapes["sam_global"] = (grid, grid, sam.hidden_size)
        shapes["sam_neck"] = shapes["sam_neck_hd"] = (sam.output_channels, grid, grid)
    return {name: shapes[name] for name in sorted(names)}


@torch.no_grad()
def frozen_features(
    model: PreTrainedModel, names: set[str], low: Tensor, high: Tensor | None
) -> Features:
    """The first half.

    Args:
        model: a complete one. names: from `frozen_features_of`.
        low, high: [I, 3, S, S], as `pixel_values` and `high_res_pixel_values` of `schema.Batch`.

    Returns:
        Each tensor [I, ...].
    """
    core = model.model
    if "aligned" in names:
        pixels = (low,) if high is None else (low, high)
        return {"aligned": core.get_image_features(*pixels, return_dict=True).pooler_output}
    made = {"low": core.vision_model(low, return_dict=True).last_hidden_state}
    if "high" in names:
        made["high"] = core.get_high_res_image_features(high).last_hidden_state
    elif high is not None:
        sam = core.high_res_vision_model(
            pixel_values=high, output_hidden_states=True, return_dict=True
        )
        made |= {"sam_last": sam.hidden_states[-1], "sam_neck": sam.last_hidden_state}
        made["sam_global"] = sam.hidden_states[
            core.global_attn_index + 1
        ]  # the first one is the embeddings
        if "sam_neck_hd" in names:
            made["sam_neck_hd"] = core.high_res_vision_neck(made["sam_global"])
    return {name: made[name] for name in sorted(names)}


def visual_tokens(model: PreTrainedModel, features: Features) -> Tensor:
    """The second half: [I, V, D], with the gradient of what trains in it."""
    core = model.model
    if "aligned" in features:
        return features["aligned"]
    if not hasattr(core, "high_res_vision_neck"):
        tokens: Tensor = core.aligner(features["low"])
    else:
        high = features["high"] if "high" in features else downsampled(model, features)
        tokens = core.aligner(features["low"], high)
    return tokens


def downsampled(model: PreTrainedModel, features: Features) -> Tensor:
    """SAM's two outputs through what follows its layers, [I, V, C]; transformers: `get_high_res_image_features`."""
    core = model.model
    if (last := features.get("sam_neck")) is None:
        last = core.high_res_vision_model.vision_encoder.neck(features["sam_last"])
    if (after_global := features.get("sam_neck_hd")) is None:
        after_global = core.high_res_vision_neck(features["sam_global"])
    project, alpha = core.high_res_vision_proj, core.high_res_vision_alpha
    return (project(last) + project(after_global) * alpha).flatten(2).transpose(1, 2)


def extractor_digest(model: PreTrainedModel, halves: dict[str, set[str]]) -> str:
    """Differs when the first half would make other features: its tensors' bytes, its settings, or transformers."""
    parts = set().union(*halves.values())
    named = {name: p for name, p in model.named_parameters() if part_of(name, PARTS) in parts}
    with ThreadPoolExecutor() as threads:  # hashing gives the interpreter free
        digests = dict(zip(named, threads.map(tensor_digest, named.values()), strict=True))
    configs = [getattr(model.config, f"{name}vision_config", None) for name in ("", "high_res_")]
    settings = [config.to_dict() for config in configs if config is not None]
    said = json.dumps(
        [sorted(halves), digests, settings, transformers.__version__], sort_keys=True, default=str
    )
    return hashlib.sha256(said.encode()).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """Of shape, dtype and bytes."""
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(flat.data).hexdigest()}"


def unload(model: PreTrainedModel, halves: dict[str, set[str]]) -> None:
    """Free the weights of the first half; alpha stays, which is used after the neck that it belongs to."""
    parts = set().union(*halves.values())
    gone = parts if "aligned" in halves or "high" in halves else parts - {"sam_neck_hd"}
    for name, _ in list(model.named_parameters()):
        if part_of(name, PARTS) in gone:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, None)
