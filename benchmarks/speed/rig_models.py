"""Random models of the published token geometry, small enough to train a step in seconds on a CPU.

`MODELS` names them. An image has 576 tokens for the decoder, and 4096 for SAM in the hybrids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from dsvl_tune.demo.build_model import build_tokenizer
from dsvl_tune.families.janus.tokenizer import BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE_TOKEN

HYBRID, SIGLIP_ONLY, JANUS = "deepseek_vl_hybrid", "deepseek_vl", "janus"
"""Model types, as transformers names them."""

# 24 layers (as in the 1.3B) of width 256 have 19 million weights. With the published vocabulary the
# head has 1.4 times as many; with 8192 tokens a ninth, similar to the published models (1.3B: a
# sixth, 7B: a fourteenth).
MODELS = {
    "vocabulary": (HYBRID, 102_400),
    "proportions": (HYBRID, 8_192),
    "siglip": (SIGLIP_ONLY, 8_192),
    "janus": (JANUS, 8_192),
}
"""Name -> model type and vocabulary size."""
DECODER = {
    "model_type": "llama",
    "max_position_embeddings": 4096,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "image_size": 384,
    "patch_size": 16,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "vision_use_head": False,
}
SAM = {
    "model_type": "sam_vision_model",
    "image_size": 1024,
    "patch_size": 16,
    "hidden_size": 128,
    "mlp_dim": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "output_channels": 256,
    "window_size": 14,
    "global_attn_indexes": [2],  # a third of the layers, as in SAM-B
    "initializer_range": 0.02,  # transformers: 1e-10
}
# the same tower as `SIGLIP`, in Janus's names
JANUS_VISION = {
    "image_size": 384,
    "patch_size": 16,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "projection_dim": DECODER["hidden_size"],
    "num_image_tokens": 576,
}
# what generates images in Janus: held in memory by some trainers, used by none
JANUS_GENERATION = {
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "num_res_blocks": 1,
    "latent_channels": 32,
    "num_embeddings": 64,
    "projection_dim": DECODER["hidden_size"],
    "image_token_embed_dim": DECODER["hidden_size"],
}
PARTS: dict[str, dict[str, Any]] = {
    HYBRID: {"vision_config": SIGLIP, "high_res_vision_config": SAM},
    SIGLIP_ONLY: {"vision_config": SIGLIP},
    JANUS: {"vision_config": JANUS_VISION, "vq_config": JANUS_GENERATION},
}
PROCESSORS = {
    HYBRID: ("DeepseekVLHybridImageProcessor", "DeepseekVLHybridProcessor"),
    SIGLIP_ONLY: ("DeepseekVLImageProcessor", "DeepseekVLProcessor"),
    JANUS: ("JanusImageProcessor", "JanusProcessor"),
}
# preprocessor_config.json as transformers' converters write it for the published models
IMAGES = {
    "size": {"height": 384, "width": 384},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "resample": 2,
    "min_size": 14,
}
SAM_IMAGES = {
    "high_res_size": {"height": 1024, "width": 1024},
    "high_res_resample": 3,
    "high_res_image_mean": [0.48145466, 0.4578275, 0.40821073],
    "high_res_image_std": [0.26862954, 0.26130258, 0.27577711],
}


def write_checkpoint(folder: Path, name: str, texts: Iterable[str]) -> None:
    """Write a model of `MODELS` in which every part contributes, with a tokenizer of `texts`."""
    model_type, vocabulary = MODELS[name]
    tokenizer = tokenizer_of(model_type, texts)
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    config = AutoConfig.for_model(
        model_type,
        text_config={
            **DECODER,
            "vocab_size": vocabulary,
            **{key: getattr(tokenizer, key) for key in special},
        },
        **PARTS[model_type],
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        tie_word_embeddings=False,
    )
    torch.manual_seed(1)
    model = AutoModelForImageTextToText.from_config(config)
    if model_type == HYBRID:
        with torch.no_grad():
            # The initial value 0 would switch SAM's second branch off.
            model.model.high_res_vision_alpha.fill_(0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_processor(folder, model_type)


def tokenizer_of(model_type: str, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of the texts; Janus's has marks around an image, and no chat template."""
    tokenizer = build_tokenizer(texts)
    if model_type == JANUS:
        marks = {"additional_special_tokens": [BEGIN_OF_IMAGE, END_OF_IMAGE]}
        tokenizer.add_special_tokens(marks, replace_extra_special_tokens=False)
        tokenizer.chat_template = None  # that of DeepSeek-VL
    return tokenizer


def write_processor(folder: Path, model_type: str) -> None:
    """Complete the tokenizer's settings, and write those of images and of the processor."""
    images, processor = PROCESSORS[model_type]
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    # for transformers' processors
    settings |= {"image_token": IMAGE_TOKEN, "boi_token": BEGIN_OF_IMAGE, "eoi_token": END_OF_IMAGE}
    files = {
        "tokenizer_config.json": settings,
        "preprocessor_config.json": {
            "image_processor_type": images,
            "processor_class": processor,
            **IMAGES,
            **(SAM_IMAGES if model_type == HYBRID else {}),
        },
        "processor_config.json": {"processor_class": processor, "num_image_tokens": 576},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
