"""Sizes that follow from a DeepSeek-VL configuration, each decided here alone."""

from __future__ import annotations

from transformers import PretrainedConfig

from dsvl_tune.core.family import ImageCost, Shapes
from dsvl_tune.families.deepseek_vl.pixels import SAM_INPUT, SIGLIP_INPUT


def visual_tokens(config: PretrainedConfig) -> int:
    """Visual tokens of an image: one for each patch of SigLIP's grid (576 in published models)."""
    vision = config.vision_config
    return int(vision.image_size // vision.patch_size) ** 2


def sam_config_of(config: PretrainedConfig) -> PretrainedConfig | None:
    """SAM's part of a configuration; None for a SigLIP-only model."""
    return getattr(config, "high_res_vision_config", None)


def sam_grid(sam: PretrainedConfig) -> int:
    """Side of SAM's grid of patches."""
    return int(sam.image_size // sam.patch_size)


def downsampled_widths(sam: PretrainedConfig) -> tuple[int, int]:
    """Channels after each of SAM's two downsampling convolutions; the aligner reads the last.

    Fixed at 2 and 4 times the neck's in transformers (DeepseekVLSamVisionProj) and in the original
    (deepseek_vl/models/sam.py).
    """
    channels = int(sam.output_channels)
    return 2 * channels, 4 * channels


def image_cost(config: PretrainedConfig) -> ImageCost:
    """What an image takes in a training step; it is the same for all images."""
    siglip = config.vision_config.image_size
    inputs: Shapes = {SIGLIP_INPUT: (1, 3, siglip, siglip)}
    sam = sam_config_of(config)
    if sam is not None:
        inputs[SAM_INPUT] = (1, 3, sam.image_size, sam.image_size)
    return ImageCost(visual_tokens(config), inputs)
