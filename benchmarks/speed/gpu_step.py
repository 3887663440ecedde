"""Parts of `gpu.py`: models of the published sizes with random weights, one row, and timing."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dsvl_tune.core.types import IGNORE_INDEX, Batch

sys.path.append(str(Path(__file__).parents[2] / "tests" / "recipes"))
from test_recipes import published_config

TYPES = {"1.3B": "deepseek_vl", "7B": "deepseek_vl_hybrid"}
TOKENS, QUESTIONS, SUPERVISED = 1024, 4, 16
TEXT_BEFORE = 24
"""Tokens of text in front of a question that all questions share."""
WARMUP = 2


class Figures(NamedTuple):
    """Of one line of the table; seconds are medians, 0 where they are not known.

    Attributes:
        tokens: of the step's rows as they would be alone.
        step_s: the whole step.
        towers_s: images encoded.
        decoder_s: forward and backward pass of the language model's layers.
        head_s: head and loss, with the gradients of both, which are computed in the forward pass.
        optimizer_s: the update.
        flops: of the step.
        decoder_flops: of the decoder's forward and backward pass.
        memory_bytes: peak.
        estimate_bytes: what `estimate-memory` says.
    """

    tokens: int
    step_s: float
    memory_bytes: int
    towers_s: float = 0.0
    decoder_s: float = 0.0
    head_s: float = 0.0
    optimizer_s: float = 0.0
    flops: int = 0
    decoder_flops: int = 0
    estimate_bytes: float = 0.0


def config_of(size: str, small: bool) -> Any:
    """The published configuration of a size; of the same kind and small, to try the script."""
    config = published_config(TYPES[size])
    if small:
        config.text_config.update({"hidden_size": 256, "intermediate_size": 512})
        config.text_config.update({"num_hidden_layers": 2, "num_attention_heads": 2})
        config.text_config.update({"num_key_value_heads": 2, "head_dim": 128, "vocab_size": 512})
        config.vision_config.num_hidden_layers = 1
        if hasattr(config, "high_res_vision_config"):
            config.high_res_vision_config.num_hidden_layers = 2
            config.high_res_vision_config.global_attn_indexes = [1]
    config.image_token_id = 100
    return config


def materialize(model: nn.Module, device: torch.device) -> None:
    """Draw every weight that is on the meta device, on the GPU; move what has values."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            drawn = parameter.data.to(device) if not parameter.is_meta else None
            if drawn is None:
                drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                drawn.normal_(0, 0.02)
            setattr(module, name, nn.Parameter(drawn, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def batch_of(config: Any, device: torch.device, questions: int) -> Batch:
    """One row about one image: a conversation, or a tree of several questions.

    Args:
        config: of the model.
        device: where the batch is.
        questions: 1 for a conversation.
    """
    draw = torch.Generator().manual_seed(1)
    vision = config.vision_config
    visual = (vision.image_size // vision.patch_size) ** 2
    ids = torch.randint(200, 500, (1, TOKENS), generator=draw)
    ids[:, :visual] = config.image_token_id
    shared = visual + TEXT_BEFORE
    places = torch.arange(TOKENS)
    each = (TOKENS - shared) // questions
    branch = torch.where(places < shared, 0, (places - shared) // each + 1).clamp(max=questions)
    positions = torch.where(places < shared, places, shared + places - shared - (branch - 1) * each)
    labels = torch.full_like(ids, IGNORE_INDEX)
    for question in range(1, questions + 1):
        own = (branch == question).nonzero().flatten()[-SUPERVISED:]
        labels[:, own] = ids[:, own]
    sizes = {"pixel_values": vision.image_size}
    if hasattr(config, "high_res_vision_config"):
        sizes["high_res_pixel_values"] = config.high_res_vision_config.image_size
    pixels = {name: torch.randn(1, 3, size, size, generator=draw) for name, size in sizes.items()}
    return Batch(
        input_ids=ids.to(device),
        labels=labels.to(device),
        loss_weights=(labels != IGNORE_INDEX).float().to(device),
        position_ids=positions[None].to(device),
        segment_ids=torch.zeros_like(ids).to(device),
        branch_ids=(branch if questions > 1 else torch.zeros_like(branch))[None].to(device),
        vision_inputs={name: tensor.to(device, torch.bfloat16) for name, tensor in pixels.items()},
        image_index=torch.zeros(1, dtype=torch.int64, device=device),
        sources=[""],
    )


def tokens_alone(batch: Batch, questions: int) -> int:
    """Tokens of a row's conversations if each were a row of its own."""
    shared = int((batch.branch_ids == 0).sum()) if questions > 1 else 0
    return TOKENS + (questions - 1) * shared


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of some work, to the end of its kernels."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    since = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - since


def peak_bytes(device: torch.device) -> int:
    """Peak of the allocator since it was last reset; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def reset_peak(device: torch.device) -> None:
    """Forget the peak, and what is not used any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def matmul_rate(device: torch.device) -> float:
    """FLOPs per second of one large product in bfloat16: the best of ten."""
    width = 8192 if device.type == "cuda" else 1024
    one, two = torch.randn(2, width, width, device=device, dtype=torch.bfloat16).unbind(0)
    return 2 * width**3 / min(seconds(lambda: one @ two, device) for _ in range(10))
