"""Sizes that follow from a DeepSeek-VL2 configuration, each decided here alone."""

from __future__ import annotations

from transformers import PretrainedConfig

from dsvl_tune.core.family import ImageCost
from dsvl_tune.families.deepseek_vl2.layout import (
    UNCUT,
    Grid,
    encoded_tiles,
    view_side,
    visual_tokens,
)
from dsvl_tune.families.deepseek_vl2.pixels import GRIDS, MOST_CUT, TILES


def possible_grids(config: PretrainedConfig, images: int) -> list[Grid]:
    """The grids that an image of a conversation with so many images may be cut into."""
    if images > MOST_CUT:
        return [UNCUT]
    tile = config.vision_config.image_size
    return [(width // tile, height // tile) for width, height in config.candidate_resolutions]


def image_cost(config: PretrainedConfig, images: int) -> ImageCost:
    """What an image of the costliest size takes in a training step."""
    grids, side = possible_grids(config, images), view_side(config)
    tile = config.vision_config.image_size
    costliest = max(grids, key=lambda grid: visual_tokens(grid, side))
    return ImageCost(
        tokens=visual_tokens(costliest, side),
        inputs={TILES: (encoded_tiles(costliest), 3, tile, tile)},
        values={GRIDS: [list(costliest)]},
    )
