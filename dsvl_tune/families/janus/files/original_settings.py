"""The files next to the weights that the original code of Janus reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import JanusConfig

from dsvl_tune.core.storage.files import write_json, write_text
from dsvl_tune.families.deepseek_vl.config import EPS, ORIGINAL, PROJECTOR_DEPTH
from dsvl_tune.families.deepseek_vl.files.chat_template import chat_template
from dsvl_tune.families.deepseek_vl.files.original_settings import (
    aligner_json,
    check_fixed,
    language_json,
    original_tokenizer,
    preprocessor_json,
    processor_json,
    tokenizer_json,
)
from dsvl_tune.families.janus.config import (
    SIGLIP_SIZES,
    VQ_SIZES,
    VqSizes,
    has_published_towers,
)
from dsvl_tune.families.janus.processor import ROLES, roles_of_files

if TYPE_CHECKING:
    from dsvl_tune.core.checkpoint import Checkpoint

# What the original's code has fixed, by the path of the key in transformers' configuration.
FIXED: dict[str, Any] = {
    "tie_word_embeddings": False,
    "vision_config.hidden_act": "gelu",
    "vision_config.layer_norm_eps": EPS,
    "vision_config.attention_bias": True,
    "vision_config.use_qk_norm": False,
    "vision_config.depth": PROJECTOR_DEPTH,
    "vq_config.hidden_act": "gelu",
    "vq_config.num_hidden_layers": PROJECTOR_DEPTH,
    "vq_config.double_latent": False,
    "vq_config.in_channels": 3,
    "vq_config.out_channels": 3,
    "text_config.rope_parameters.rope_type": "default",
}


def write_original_settings(checkpoint: Checkpoint, target: Path, dtype: str) -> None:
    """Write config.json, tokenizer and image settings, for a base that never was in this layout.

    Args:
        checkpoint: the base.
        target: folder to write to.
        dtype: of most of the written weights.

    Raises:
        UserError: a setting that the original's code has fixed has another value here.
    """
    check_fixed(checkpoint.config, FIXED)
    for name, content in original_settings(checkpoint, dtype).items():
        write_json(target / name, content)
    write_json(target / "tokenizer.json", original_tokenizer(checkpoint.folder / "tokenizer.json"))
    write_template(checkpoint, target)


def write_template(checkpoint: Checkpoint, target: Path) -> None:
    """Write the chat template, which keeps the system prompt and roles of this checkpoint.

    The original has the one in its code and takes the others from its caller.
    """
    processor = checkpoint.processor
    template = chat_template(processor.default_system, processor.roles)
    write_text(target / "chat_template.jinja", template)


def complete_settings(checkpoint: Checkpoint, target: Path) -> None:
    """Write the chat template where the copied files alone would lead to other roles.

    Args:
        checkpoint: the base, in the original layout or made from a checkpoint that was.
        target: folder with the files.
    """
    if roles_of_files(target, checkpoint.tokenizer) != checkpoint.processor.roles:
        write_template(checkpoint, target)


def conversion_notes(settings: Mapping[str, Any], absent: int) -> list[str]:
    """What the reader of a checkpoint in the original layout has to know.

    Args:
        settings: its config.json.
        absent: how many of the tensors that the original's code never reads the checkpoint lacks.
    """
    notes = []
    if absent:
        notes.append(
            f"{absent} tensors that the original's code has but never reads (attention pooling, "
            "the quantizer's list of codes in use) are not in the source and so not here: that "
            "code draws them anew, with a warning and without effect"
        )
    if not has_published_towers(settings):
        notes.append(
            "its towers have no published name: config.json holds their sizes, which dsvl-tune "
            "reads and the original's code does not"
        )
    return notes


def original_settings(checkpoint: Checkpoint, dtype: str) -> dict[str, dict[str, Any]]:
    """File name -> content.

    Args:
        checkpoint: the base.
        dtype: of most of the written weights ("float16", ...).
    """
    config, processor = checkpoint.config, checkpoint.processor
    template = next(name for name, roles in ROLES.items() if roles == processor.roles)
    tokenizer = checkpoint.tokenizer
    ids = set(checkpoint.special_ids.values())
    further = [
        token
        for token in tokenizer.all_special_tokens
        if tokenizer.convert_tokens_to_ids(token) not in ids
    ]
    return {
        "config.json": config_json(config, dtype),
        "preprocessor_config.json": preprocessor_json(processor.image_settings, normalizes=True),
        "processor_config.json": processor_json(config, template),
        **tokenizer_json(tokenizer, further),
    }


def config_json(config: JanusConfig, dtype: str) -> dict[str, Any]:
    """config.json of a MultiModalityCausalLM."""
    text, vision, vq = config.text_config, config.vision_config, config.vq_config
    return {
        "aligner_config": aligner_json("aligner", vision.hidden_size, vision.projection_dim),
        "architectures": ["MultiModalityCausalLM"],
        "gen_aligner_config": aligner_json("gen_aligner", vq.embed_dim, vq.projection_dim),
        "gen_head_config": {
            "cls": "vision_head",
            "model_type": "gen_head",
            "params": {
                "image_token_embed": vq.projection_dim,
                "image_token_size": vq.num_embeddings,
                "n_embed": vq.image_token_embed_dim,
            },
        },
        "gen_vision_config": gen_vision_json(vq),
        "language_config": language_json(text, dtype),
        "model_type": ORIGINAL,
        "torch_dtype": dtype,
        "vision_config": {
            "cls": "CLIPVisionTower",
            "model_type": "vision",
            "params": siglip_json(vision),
        },
    }


def gen_vision_json(vq: Any) -> dict[str, Any]:
    """The VQ autoencoder's section: its published name where it has one, else its sizes."""
    sizes = VqSizes(
        vq.base_channels, tuple(vq.channel_multiplier), vq.num_res_blocks, vq.latent_channels
    )
    names = [name for name, published in VQ_SIZES.items() if published == sizes]
    params = {"image_token_size": vq.num_embeddings, "n_embed": vq.embed_dim}
    if not names:
        params |= sizes._asdict()
    return {"cls": names[0] if names else "VQ", "model_type": "gen_vision", "params": params}


def siglip_json(vision: Any) -> dict[str, Any]:
    """SigLIP's section: its published name where it has one, else its sizes."""
    sizes = {
        "hidden_size": vision.hidden_size,
        "intermediate_size": int(vision.hidden_size * vision.mlp_ratio),
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
        "patch_size": vision.patch_size,
    }
    names = [name for name, published in SIGLIP_SIZES.items() if published == sizes]
    params = {
        "image_size": vision.image_size,
        "model_name": names[0] if names else "siglip",
        "select_feature": "same",
        "select_layer": -1,
    }
    if not names:
        params |= {
            "width": vision.hidden_size,
            "layers": vision.num_hidden_layers,
            "heads": vision.num_attention_heads,
            "patch_size": vision.patch_size,
            "mlp_ratio": vision.mlp_ratio,
        }
    return params
