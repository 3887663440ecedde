"""The files next to the weights of a written checkpoint, in both layouts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerFast

from dsvl_tune.core.dtypes import DTYPES
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Layout
from dsvl_tune.core.storage.files import write_json, write_text
from dsvl_tune.families.deepseek_vl.files.original_settings import (
    original_tokenizer,
    tokenizer_json,
)
from dsvl_tune.families.deepseek_vl2.config import (
    EPS,
    FIXED_TOP,
    ORIGINAL,
    PROJECTOR_DEFAULTS,
    VISION_DEFAULTS,
)
from dsvl_tune.families.deepseek_vl2.files.chat_template import TEMPLATE
from dsvl_tune.families.deepseek_vl2.pixels import ImageSettings
from dsvl_tune.families.deepseek_vl2.processor import PROCESSOR_FILE
from dsvl_tune.families.deepseek_vl2.tokenizer import IMAGE_TOKEN

if TYPE_CHECKING:
    from dsvl_tune.core.checkpoint import Checkpoint

PROCESSOR_CLASS = "DeepseekVLV2Processor"
LANGUAGE_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "n_shared_experts",
    "n_routed_experts",
    "routed_scaling_factor",
    "kv_lora_rank",
    "q_lora_rank",
    "qk_rope_head_dim",
    "v_head_dim",
    "qk_nope_head_dim",
    "topk_method",
    "n_group",
    "topk_group",
    "num_experts_per_tok",
    "first_k_dense_replace",
    "norm_topk_prob",
    "scoring_func",
    "aux_loss_alpha",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "attention_bias",
    "attention_dropout",
    "use_mla",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)

# What the original's code has fixed, by the path of the key in transformers' configuration.
FIXED: dict[str, Any] = {
    "tie_word_embeddings": False,
    "vision_config.hidden_act": "gelu_pytorch_tanh",
    "vision_config.layer_norm_eps": EPS,
    "text_config.mlp_bias": False,
}


def write_settings(checkpoint: Checkpoint, target: Path, layout: Layout, dtype: str) -> None:
    """Write config.json, tokenizer and image settings.

    Args:
        checkpoint: the base.
        target: folder to write to.
        layout: that the weights were written in.
        dtype: of most of the written weights.

    Raises:
        UserError: a setting that the original's code has fixed has another value here.
    """
    tokenizer = copy.deepcopy(checkpoint.tokenizer)
    if layout == "original":
        write_json(target / "config.json", original_json(checkpoint.config, dtype))
        write_original_tokenizer(tokenizer, target)
        write_template(target)
    else:
        config = copy.deepcopy(checkpoint.config)
        config.architectures = [checkpoint.family.model_class(config).__name__]
        config.dtype = DTYPES[dtype]
        config.save_pretrained(target)
        GenerationConfig(**checkpoint.special_ids, do_sample=False).save_pretrained(target)
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(target)
    settings = processor_json(checkpoint.config, checkpoint.processor.image_settings)
    write_json(target / PROCESSOR_FILE, settings)


def write_template(target: Path) -> None:
    """Write the chat template into a folder in the original layout, unless it has one.

    The original's code has the prompt in itself. Servers without a template here take one of their
    own, whose prompts have other ids (vLLM's: a line break after each image, a space at the end).
    """
    path = target / "chat_template.jinja"
    if not path.exists():
        write_text(path, TEMPLATE)


def write_original_tokenizer(tokenizer: PreTrainedTokenizerFast, target: Path) -> None:
    """Write a tokenizer as the original's code reads it, which has tokenizers 0.15.

    Args:
        tokenizer: of the checkpoint.
        target: folder to write to.

    Raises:
        UserError: that release would give other ids.
    """
    tokenizer.save_pretrained(target)
    write_json(target / "tokenizer.json", original_tokenizer(target / "tokenizer.json"))
    files = tokenizer_json(tokenizer, list(tokenizer.extra_special_tokens))
    files["tokenizer_config.json"]["processor_class"] = PROCESSOR_CLASS
    for name, content in files.items():
        write_json(target / name, content)


def processor_json(config: PretrainedConfig, images: ImageSettings) -> dict[str, Any]:
    """processor_config.json, in the keys of the original's processor."""
    return {
        "add_special_token": False,
        "candidate_resolutions": [list(candidate) for candidate in images.candidates],
        "downsample_ratio": config.downsample_ratio,
        "ignore_id": -100,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
        "image_token": IMAGE_TOKEN,
        "mask_prompt": True,
        "normalize": True,
        "pad_token": None,
        "patch_size": config.vision_config.patch_size,
        "processor_class": PROCESSOR_CLASS,
        "sft_format": "deepseek",
    }


def original_json(config: PretrainedConfig, dtype: str) -> dict[str, Any]:
    """config.json of a DeepseekVLV2ForCausalLM, no key left to a default.

    Raises:
        UserError: a setting that the original's code has fixed has another value here.
    """
    check_fixed(config)
    text, vision = config.text_config, config.vision_config
    language = {key: getattr(text, key) for key in LANGUAGE_KEYS}
    tower = {
        "model_type": "vision",
        "model_name": "siglip_so400m_patch14_384",
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "width": vision.hidden_size,
        "layers": vision.num_hidden_layers,
        "heads": vision.num_attention_heads,
        "mlp_ratio": mlp_ratio(vision.hidden_size, vision.intermediate_size),
    }
    projector = {
        "model_type": "mlp_projector",
        **PROJECTOR_DEFAULTS,
        "downsample_ratio": config.downsample_ratio,
        "input_dim": vision.hidden_size,
        "n_embed": text.hidden_size,
    }
    return {
        "architectures": ["DeepseekVLV2ForCausalLM"],
        "model_type": ORIGINAL,
        **FIXED_TOP,
        "torch_dtype": dtype,
        "candidate_resolutions": [list(pair) for pair in config.candidate_resolutions],
        "vision_config": tower,
        "projector_config": projector,
        "language_config": {
            **language,
            "model_type": "deepseek_v2",
            "torch_dtype": dtype,
            "rope_theta": text.rope_parameters["rope_theta"],
            "tie_word_embeddings": False,
        },
    }


def mlp_ratio(width: int, mlp: int) -> float:
    """The ratio whose product with the width, truncated, is the width inside the MLP.

    The published 3.7362 is kept where it is right; otherwise half a unit is added before dividing.
    """
    published = 3.7362
    for ratio in (VISION_DEFAULTS["mlp_ratio"], published):
        if int(width * ratio) == mlp:
            return float(ratio)
    return (mlp + 0.5) / width


def check_fixed(config: PretrainedConfig) -> None:
    """Refuse what the original's code would compute differently, without an error of its own.

    Raises:
        UserError: naming the key.
    """
    for path, expected in FIXED.items():
        value: Any = config
        for key in path.split("."):
            value = getattr(value, key)
        if value != expected:
            raise UserError(
                f"the original layout cannot hold {path} {value!r}: its code has {expected!r} "
                "fixed and would give other answers. Write --layout transformers."
            )


def conversion_notes(settings: Any, absent: int) -> list[str]:
    """What the reader of a checkpoint in the original layout has to know.

    Args:
        settings: its config.json.
        absent: how many of the tensors that the original's code never reads the checkpoint lacks.
    """
    if not absent:
        return []
    return [
        f"{absent} tensors that the original's code has but never reads (attention pooling) are "
        "not in the source and so not here: that code draws them at random, with a warning and "
        "without effect"
    ]
