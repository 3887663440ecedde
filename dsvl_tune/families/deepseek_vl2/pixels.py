"""From an RGB picture to the tiles that the vision tower encodes.

1. `choose_grid`: how many tiles, from the size of the picture alone.
2. `pad_image`: the view of the whole picture and the tiles, in gray levels (uint8). This is the
   expensive step, whose result the image cache keeps.
3. `normalize`: float32, on the device.

Sources: `select_best_resolution` and `tokenize_with_images` in
deepseek_vl2/models/processing_deepseek_vl_v2.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dsvl_tune.core.errors import UserError
from dsvl_tune.families.deepseek_vl2 import layout
from dsvl_tune.families.deepseek_vl2.layout import UNCUT, Grid, encoded_tiles, visual_tokens

TILES, GRIDS = "pixel_values", "image_grids"
"""Names of the vision inputs: [C, 3, S, S], and [1, 2] of an image."""

MOST_CUT = 2
"""In a conversation with more images none is cut into tiles."""
MAX_LEVEL = 255
BYTE = torch.uint8


@dataclass(frozen=True)
class ImageSettings:
    """How a picture becomes tiles.

    Attributes:
        tile: side of a tile in px (S).
        candidates: (width, height) in px that a picture may be padded to and cut into tiles; the
            first of equally good ones is taken.
        side: visual tokens on a side of a tile (G).
        mean: of each channel, of levels in 0..1.
        std: of each channel.
    """

    tile: int
    candidates: tuple[tuple[int, int], ...]
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def background(self) -> tuple[int, int, int]:
        """Padding color, RGB in 0..255: the mean, truncated."""
        red, green, blue = (int(channel * MAX_LEVEL) for channel in self.mean)
        return red, green, blue

    @property
    def grids(self) -> list[Grid]:
        """The grids that the candidates are cut into."""
        return [(width // self.tile, height // self.tile) for width, height in self.candidates]


def choose_grid(size: tuple[int, int], settings: ImageSettings, images: int) -> Grid:
    """Tiles (wide, high) of a picture.

    The candidate in which the picture, scaled to fit, has the most pixels is taken, counting none
    that scaling up would invent; of equal ones, the candidate with the fewest pixels left over.
    The paper (arXiv 2412.10302, section 2.1) describes another rule; this is the code's.

    Args:
        size: (width, height) of the picture in px.
        settings: of the checkpoint.
        images: number of images in the conversation.
    """
    if images > MOST_CUT:
        return UNCUT
    width, height = size

    def merit(candidate: tuple[int, int]) -> tuple[int, int]:
        scale = min(candidate[0] / width, candidate[1] / height)
        fitted = int(width * scale) * int(height * scale)
        used = min(fitted, width * height)
        return used, used - candidate[0] * candidate[1]

    best = max(settings.candidates, key=merit)  # the first of equal ones
    return best[0] // settings.tile, best[1] // settings.tile


def image_tokens(size: tuple[int, int], settings: ImageSettings, images: int) -> int:
    """Tokens that a picture of this size (width, height) occupies in a row."""
    return visual_tokens(choose_grid(size, settings, images), settings.side)


def tiles_label(tokens: int, settings: ImageSettings) -> str:
    """The grid of an image of so many tokens in words."""
    wide, high = grid_of(tokens, settings)
    return "not cut" if (wide, high) == UNCUT else f"{wide} x {high} tiles"


def grid_of(tokens: int, settings: ImageSettings) -> Grid:
    """The grid of an image of so many tokens; no two grids have as many."""
    grids = {visual_tokens(grid, settings.side): grid for grid in settings.grids}
    return grids.get(tokens, UNCUT)


def limit_tiles(
    candidates: Sequence[Sequence[int]], tile: int, most: int
) -> tuple[tuple[int, int], ...]:
    """The candidates of at most so many tiles.

    Args:
        candidates: (width, height) in px.
        tile: side of a tile in px.
        most: tiles.

    Raises:
        UserError: none is left.
    """
    kept = [(w, h) for w, h in candidates if (w // tile) * (h // tile) <= most]
    if not kept:
        raise UserError(
            f"data.max_tiles: {most}, but this checkpoint cuts no image into so few. Give 1 or "
            "more."
        )
    return tuple(kept)


def pad_image(image: Image.Image, settings: ImageSettings, images: int) -> dict[str, Tensor]:
    """The tiles of an RGB picture.

    Args:
        image: the picture.
        settings: of the checkpoint.
        images: number of images in the conversation.

    Returns:
        The tiles [C, 3, S, S] uint8, the view of the whole picture first, then row by row; and the
        grid [1, 2] uint8, (wide, high).
    """
    wide, high = grid = choose_grid(image.size, settings, images)
    side, color = settings.tile, settings.background
    views = [to_levels(ImageOps.pad(image, (side, side), color=color))]
    if grid != UNCUT:
        large = to_levels(ImageOps.pad(image, (wide * side, high * side), color=color))
        tiles = large.unflatten(1, (high, side)).unflatten(3, (wide, side))
        views += tiles.permute(1, 3, 0, 2, 4).flatten(0, 1)
    return {TILES: torch.stack(views), GRIDS: torch.tensor([grid], dtype=BYTE)}


def to_levels(image: Image.Image) -> Tensor:
    """Gray levels of an RGB picture: [3, height, width] uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def padded_shapes(settings: ImageSettings) -> dict[str, tuple[int, ...]]:
    """Shape of what `pad_image` returns, with the most tiles."""
    most = max(map(encoded_tiles, settings.grids))
    return {TILES: (most, 3, settings.tile, settings.tile), GRIDS: (1, 2)}


def normalize(vision_inputs: Mapping[str, Tensor], settings: ImageSettings) -> dict[str, Tensor]:
    """Vision inputs as the model takes them: (x / 255 - mean) / std where they are uint8.

    Args:
        vision_inputs: tiles [C, 3, S, S] of all images, and grids [I, 2]; {} without images.
        settings: of the checkpoint.

    Returns:
        Tiles float32, grids as they are.
    """
    inputs = dict(vision_inputs)
    if TILES in inputs and inputs[TILES].dtype == BYTE:
        mean, std = channel_values(settings, inputs[TILES].device)
        inputs[TILES] = inputs[TILES].float().div_(MAX_LEVEL).sub_(mean).div_(std)
    return inputs


def gray_levels(vision_inputs: Mapping[str, Tensor], settings: ImageSettings) -> dict[str, Tensor]:
    """Normalized tiles as levels again: by "SigLIP" [C, 3, S, S] float32 in 0..255."""
    tiles = vision_inputs[TILES]
    mean, std = channel_values(settings, tiles.device)
    return {"SigLIP": (tiles * std + mean) * MAX_LEVEL}


def channel_values(settings: ImageSettings, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the channels, each [3, 1, 1]."""
    mean = torch.tensor(settings.mean, device=device).view(3, 1, 1)
    std = torch.tensor(settings.std, device=device).view(3, 1, 1)
    return mean, std


def blank_inputs(settings: ImageSettings) -> dict[str, Tensor]:
    """The vision inputs of a blank image that is not cut, normalized."""
    blank = torch.zeros(1, 3, settings.tile, settings.tile)
    return {TILES: blank, GRIDS: torch.tensor([UNCUT], dtype=BYTE)}


@lru_cache
def image_digest(settings: ImageSettings) -> str:
    """Changes whenever a picture would become other vision inputs: of settings and code."""
    code = b"".join(Path(str(module)).read_bytes() for module in (__file__, layout.__file__))
    return hashlib.sha256(f"{settings}".encode() + code).hexdigest()
