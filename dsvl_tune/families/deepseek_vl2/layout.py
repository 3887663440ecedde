"""How the tiles of an image become one sequence of visual tokens.

First the view of the whole picture, then a separator, then the grid of tiles, joined to one large
view. Every row of a view ends in a newline. Source: `prepare_inputs_embeds` in
deepseek_vl2/models/modeling_deepseek_vl_v2.py.

An image that is not cut has a grid of 1 x 1, whose only tile is the view of the whole picture
again: it is encoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig

Grid = tuple[int, int]
"""Tiles of an image: wide, high."""

UNCUT: Grid = (1, 1)


def view_side(config: PretrainedConfig) -> int:
    """Visual tokens on a side of a tile (G): 14 of 27 patches in the published models."""
    patches = config.vision_config.image_size // config.vision_config.patch_size
    return -(-patches // int(config.downsample_ratio))


def visual_tokens(grid: Grid, side: int) -> int:
    """Visual tokens of an image, newlines and separator included (V).

    Args:
        grid: of the image.
        side: of a tile, see `view_side`.
    """
    wide, high = grid
    return side * (side + 1) + 1 + high * side * (wide * side + 1)


def encoded_tiles(grid: Grid) -> int:
    """Tiles of an image that the vision tower encodes, the view of the whole picture first (C)."""
    wide, high = grid
    return 1 if grid == UNCUT else 1 + wide * high


def split_tiles(tiles: Tensor, grids: Tensor) -> Iterator[tuple[Tensor, Grid]]:
    """The tiles and the grid of each image.

    Args:
        tiles: [C, ...], of all images one after the other.
        grids: [I, 2], (wide, high).
    """
    known: Sequence[Grid] = [(int(wide), int(high)) for wide, high in grids.tolist()]
    yield from zip(tiles.split([encoded_tiles(grid) for grid in known]), known, strict=True)


def join_tiles(tiles: Tensor, grid: Grid, newline: Tensor, separator: Tensor) -> Tensor:
    """The visual tokens of one image.

    Args:
        tiles: [C, G, G, D], the view of the whole picture first, then row by row.
        grid: of the image.
        newline: [D].
        separator: [D].

    Returns:
        [V, D].
    """
    wide, high = grid
    side, width = tiles.shape[1], tiles.shape[-1]
    cut = tiles if grid == UNCUT else tiles[1:]
    rows = cut.unflatten(0, (high, wide)).transpose(1, 2)  # [high, G, wide, G, D]
    large = rows.reshape(high * side, wide * side, width)
    return torch.cat([end_rows(tiles[0], newline), separator[None], end_rows(large, newline)])


def end_rows(view: Tensor, newline: Tensor) -> Tensor:
    """A view [rows, columns, D] with a newline [D] after each row: [rows * (columns + 1), D]."""
    ends = newline.expand(len(view), 1, -1)
    return torch.cat([view, ends], dim=1).flatten(0, 1)
