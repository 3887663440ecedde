"""From tiles to visual tokens, at once or in two steps that a feature cache can separate.

The first step ends in named tensors, computed without gradient. Of I images with C tiles in all:

    projected  [C, G * G, D], the vision tower and the projector are frozen
    siglip     [C, P * P, W], output of the vision tower; the projector trains
    grid       [I, 2], tiles (wide, high) of each image

G is the side of a tile in visual tokens, P in patches, W the width of the vision tower. Newlines
and the separator are put in afterwards, so a cache stays valid while they train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Plan, Shapes
from dsvl_tune.families.deepseek_vl2.layout import encoded_tiles, split_tiles, view_side
from dsvl_tune.families.deepseek_vl2.pixels import GRIDS, TILES
from dsvl_tune.families.deepseek_vl2.sizes import possible_grids

GRID = "grid"


def encode_images(model: PreTrainedModel, vision_inputs: Mapping[str, Tensor]) -> Sequence[Tensor]:
    """The visual tokens of images: one [V_i, D] for each.

    Args:
        model: a complete model.
        vision_inputs: tiles [C, 3, S, S], normalized, and grids [I, 2].
    """
    tiles = model.model.encode_tiles(vision_inputs[TILES])
    images: Sequence[Tensor] = model.model.lay_out(tiles, vision_inputs[GRIDS])
    return images


def forward_inputs(vision_inputs: Mapping[str, Tensor], image_index: Tensor) -> dict[str, Tensor]:
    """The model's arguments for image slots.

    Args:
        vision_inputs: of the distinct images; {} without any.
        image_index: [M] int64, which image fills the m-th slot.
    """
    if not vision_inputs:
        return {}
    images = list(split_tiles(vision_inputs[TILES], vision_inputs[GRIDS]))
    slots = [images[image][0] for image in image_index.tolist()]
    if not slots:
        return {}
    return {TILES: torch.cat(slots), GRIDS: vision_inputs[GRIDS][image_index]}


def cacheable_features(plan: Plan) -> dict[str, set[str]]:
    """Names of the tensors that a feature cache can keep -> the parts that compute each.

    Args:
        plan: one entry for each part.

    Raises:
        UserError: the vision tower trains.
    """
    if plan["siglip"].mode != "frozen":
        raise UserError(
            f"model.feature_cache: siglip trains ({plan['siglip'].mode}), so the features of an "
            "image change with every step. Freeze it (model.parts.siglip.mode: frozen) or set "
            "model.feature_cache to null."
        )
    if plan["projector"].mode != "frozen":
        return {"siglip": {"siglip"}, GRID: set()}
    return {"projected": {"siglip", "projector"}, GRID: set()}


def finishing_parts(names: set[str]) -> set[str]:
    """The parts that `finish_images` uses."""
    return {"tile_embeddings"} if "projected" in names else {"tile_embeddings", "projector"}


def feature_shapes(config: PretrainedConfig, names: set[str]) -> Shapes:
    """Shape of each cached tensor of one image with the most tiles."""
    vision = config.vision_config
    tiles = max(map(encoded_tiles, possible_grids(config, 1)))
    patches = (vision.image_size // vision.patch_size) ** 2
    shapes: Shapes = {
        "projected": (tiles, view_side(config) ** 2, config.text_config.hidden_size),
        "siglip": (tiles, patches, vision.hidden_size),
        GRID: (1, 2),
    }
    return {name: shapes[name] for name in sorted(names)}


@torch.no_grad()
def compute_features(
    model: PreTrainedModel, names: set[str], vision_inputs: Mapping[str, Tensor]
) -> list[dict[str, Tensor]]:
    """The first step.

    Args:
        model: a complete model.
        names: from `cacheable_features`.
        vision_inputs: tiles [C, 3, S, S], normalized, and grids [I, 2].

    Returns:
        Of each image, by name [C_i, ...], and its grid [1, 2] in the features' dtype.
    """
    if "projected" in names:
        name, tiles = "projected", model.model.encode_tiles(vision_inputs[TILES])
    else:
        name = "siglip"
        tiles = model.model.vision_tower(vision_inputs[TILES]).last_hidden_state
    return [
        {name: own, GRID: torch.tensor([grid], dtype=own.dtype, device=own.device)}
        for own, grid in split_tiles(tiles, vision_inputs[GRIDS])
    ]


def finish_images(model: PreTrainedModel, features: Mapping[str, Tensor]) -> Sequence[Tensor]:
    """The second step, with the gradient of what trains in it.

    Args:
        model: a complete model; only `finishing_parts` need weights.
        features: from `compute_features`, concatenated by name.

    Returns:
        Visual tokens of each image, [V_i, D].
    """
    if "projected" in features:
        tiles = features["projected"]
    else:
        tiles = model.model.projector(features["siglip"])
    images: Sequence[Tensor] = model.model.lay_out(tiles, features[GRID])
    return images
