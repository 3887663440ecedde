"""Keep padded images on disk, so that no image is decoded and resized twice."""

from __future__ import annotations

import torch

from dsvl_tune.core.family import Processor
from dsvl_tune.core.storage.cache_folder import cache_folder
from dsvl_tune.core.storage.tensor_cache import TensorCache
from dsvl_tune.data.images.loader import processing_digest


def padded_image_cache(processor: Processor, max_gb: float) -> TensorCache:
    """The cache of padded images (`Family.pad_image`, uint8); workers and runs share it.

    Args:
        processor: its image settings determine the folder.
        max_gb: bound on the images of all settings, in GB.
    """
    return TensorCache(
        cache_folder("padded_images"),
        processing_digest(processor)[:32],
        processor.family.padded_shapes(processor),
        torch.uint8,
        int(max_gb * 1e9),
    )
