"""A random Janus of the smallest sizes: 16 visual tokens an image, the golden tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

GOLDEN = Path(__file__).parent / "golden" / "janus" / "checkpoint"
SIZE, PATCH = 32, 8
"""Of a picture in px."""


def build_janus(folder: Path, width: int = 48, inner: int = 80) -> Path:
    """Write the checkpoint in transformers' layout.

    Args:
        folder: to write to.
        width: of the language model; bitsandbytes needs multiples of 64.
        inner: width inside its MLPs, likewise.
    """
    from transformers import JanusConfig, JanusForConditionalGeneration, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(GOLDEN)
    config = JanusConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": 512,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
        },
        vision_config={
            "image_size": SIZE,
            "patch_size": PATCH,
            "hidden_size": 32,
            "mlp_ratio": 1.5,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "projection_dim": width,
            "num_image_tokens": (SIZE // PATCH) ** 2,
        },
        vq_config={
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "latent_channels": 32,
            "num_embeddings": 64,
            "projection_dim": width,
            "image_token_embed_dim": width,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(7)
    model = JanusForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if parameter.ndim == 1 else 0.9 * parameter[0].numel() ** -0.5
            center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(center + scale * (0.2 if center else 1.0) * torch.randn_like(parameter))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(GOLDEN / name, folder / name)
    half = [0.5, 0.5, 0.5]
    images = {"size": {"height": SIZE, "width": SIZE}, "image_mean": half, "image_std": half}
    (folder / "preprocessor_config.json").write_text(json.dumps(images), encoding="utf-8")
    return folder
