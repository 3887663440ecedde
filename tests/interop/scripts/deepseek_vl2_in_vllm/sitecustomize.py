"""Lets vLLM serve small models of DeepSeek-VL2 on a CPU; Python imports this as it starts.

The compiled part of torchvision is built for CUDA on PyPI. vLLM needs its transforms alone, and
their import asks for these operators.

vLLM makes the published vision tower by its name in timm, so the one of the test checkpoints takes
its place. It keeps the original's 27 x 27 patches and GELU; vLLM pads to 28 x 28 (docs/interop.md).
"""

from functools import partial

import torch

for operator in ("nms", "qnms"):
    torch.library.define(f"torchvision::{operator}", "(Tensor a, Tensor b, float c) -> Tensor")

import timm.models._registry as registry  # noqa: E402, timm imports torchvision
from timm.models.vision_transformer import VisionTransformer  # noqa: E402


def small_tower(pretrained: bool, num_classes: int, **_: object) -> VisionTransformer:
    """The tower of the golden checkpoints; its arguments are vLLM's."""
    return VisionTransformer(
        img_size=384,
        patch_size=14,
        num_classes=num_classes,
        global_pool="map",
        embed_dim=48,
        depth=2,
        num_heads=3,
        mlp_ratio=3.7362,
        class_token=False,
        act_layer=partial(torch.nn.GELU, approximate="tanh"),
    )


registry._model_entrypoints["vit_so400m_patch14_siglip_384"] = small_tower
