"""config.json and the rest of the original layout's settings, from transformers' configuration."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from dsvl_tune.core.errors import UserError
from dsvl_tune.families.deepseek_vl.config import (
    EPS,
    PROJECTOR_DEPTH,
    PROJECTORS,
    SAM_TOWERS,
    SIGLIP_TOWERS,
    Tower,
)
from dsvl_tune.families.deepseek_vl.pixels import ImageSettings, TowerPixels
from dsvl_tune.families.deepseek_vl.tokenizer import IMAGE_TOKEN

# What the original's code has fixed, by the path of the key in transformers' configuration.
FIXED: dict[str, Any] = {
    "tie_word_embeddings": False,
    "vision_config.hidden_act": "gelu",
    "vision_config.layer_norm_eps": EPS,
    "high_res_vision_config.hidden_act": "gelu",
    "high_res_vision_config.layer_norm_eps": EPS,
    "high_res_vision_config.qkv_bias": True,
    "text_config.rope_parameters.rope_type": "default",
}
LANGUAGE_KEYS = (
    *(
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    ),
    *("vocab_size", "max_position_embeddings", "rms_norm_eps"),
)


def original_settings(
    config: PretrainedConfig, rule: ImageSettings, tokenizer: PreTrainedTokenizerFast, dtype: str
) -> dict[str, dict[str, Any]]:
    """File name -> content.

    Args:
        config: in transformers' form. rule: how pictures become pixels. tokenizer: the checkpoint's. dtype: of the
            written weights ("float16", ...).

    Raises:
        UserError: a setting that the original's code has fixed is another one here.
    """
    check_fixed(config)
    return {
        "config.json": config_json(config, rule, dtype),
        "preprocessor_config.json": preprocessor_json(rule),
        "processor_config.json": {
            "add_special_token": False,
            "ignore_id": -100,
            "image_tag": IMAGE_TOKEN,
            "mask_prompt": True,
            "num_image_tokens": (config.vision_config.image_size // config.vision_config.patch_size)
            ** 2,
            "processor_class": "VLChatProcessor",
            "sft_format": "deepseek",
        },
        **tokenizer_json(tokenizer),
    }


def check_fixed(config: PretrainedConfig) -> None:
    """Refuse what the original's code would compute otherwise, without an error of its own.

    Raises:
        UserError: naming the key.
    """
    for path, expected in FIXED.items():
        value: Any = config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        if value not in (None, expected):
            raise UserError(
                f"the original layout cannot hold {path} {value!r}: its code has {expected!r} fixed and would answer "
                "otherwise. Write --layout transformers."
            )


def config_json(config: PretrainedConfig, rule: ImageSettings, dtype: str) -> dict[str, Any]:
    """config.json of a MultiModalityCausalLM."""
    text, family = config.text_config, config.model_type
    low = siglip_tower(config.vision_config, rule.siglip)
    vision: dict[str, Any] = {"cls": "CLIPVisionTower", "model_type": "vision", "params": low}
    if rule.sam is not None:
        towers = {
            "high_res_cfg": sam_tower(config.high_res_vision_config, rule.sam),
            "low_res_cfg": low,
        }
        params = {"concat_type": "tuple", "freeze_high": True, "freeze_low": True, **towers}
        vision = {"cls": "HybridVisionTower", "model_type": "vision", "params": params}
    aligner = {
        "depth": PROJECTOR_DEPTH,
        "input_dim": config.vision_config.hidden_size,
        "n_embed": text.hidden_size,
        "projector_type": PROJECTORS[family],
    }
    language = {key: getattr(text, key) for key in LANGUAGE_KEYS}
    return {
        "aligner_config": {"cls": "MlpProjector", "model_type": "aligner", "params": aligner},
        "architectures": ["MultiModalityCausalLM"],
        "language_config": {
            "model_type": "llama",
            "torch_dtype": dtype,
            **language,
            "rope_theta": text.rope_parameters["rope_theta"],
        },
        "model_type": "multi_modality",
        "torch_dtype": dtype,
        "vision_config": vision,
    }


def siglip_tower(vision: PretrainedConfig, branch: TowerPixels) -> dict[str, Any]:
    """One tower of SigLIP: by its published name where it has one, else with its sizes."""
    size = Tower(vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads)
    names = [
        name
        for name, tower in SIGLIP_TOWERS.items()
        if tower == size and f"patch{vision.patch_size}_" in name
    ]
    sizes = {
        **size._asdict(),
        "patch_size": vision.patch_size,
        "mlp_ratio": vision.intermediate_size / size.width,
    }
    return tower_json(
        names[0] if names else "siglip", branch, vision.hidden_size, {} if names else sizes
    )


def sam_tower(sam: PretrainedConfig, branch: TowerPixels) -> dict[str, Any]:
    """One tower of SAM: by its published name where it has one, else with its sizes."""
    size = Tower(sam.hidden_size, sam.num_hidden_layers, sam.num_attention_heads)
    names = [name for name, tower in SAM_TOWERS.items() if tower == size]
    downsample = [2 * sam.output_channels, 4 * sam.output_channels]
    sizes = {
        **size._asdict(),
        "mlp_ratio": sam.mlp_dim / size.width,
        "patch_size": sam.patch_size,
        "window_size": sam.window_size,
        "global_attn_indexes": list(sam.global_attn_indexes),
        "prompt_embed_dim": sam.output_channels,
        "downsample_channels": downsample,
    }
    return tower_json(names[0] if names else "sam", branch, downsample[-1], {} if names else sizes)


def tower_json(name: str, branch: TowerPixels, width: int, sizes: dict[str, Any]) -> dict[str, Any]:
    """The keys that every tower has."""
    return {
        "ckpt_path": "",
        "image_size": branch.size,
        "model_name": name,
        "output_dim": width,
        "pixel_mean": list(branch.mean),
        "pixel_std": list(branch.std),
        "select_feature": "same",
        "select_layer": -1,
        **sizes,
    }


def preprocessor_json(rule: ImageSettings) -> dict[str, Any]:
    """preprocessor_config.json: the padded square; each tower normalises for itself."""
    square = rule.sam or rule.siglip
    return {
        "background_color": list(rule.background),
        "do_normalize": False,
        "image_mean": list(square.mean),
        "image_processor_type": "VLMImageProcessor",
        "image_size": rule.size,
        "image_std": list(square.std),
        "min_size": rule.min_size,
        "processor_class": "VLChatProcessor",
        "rescale_factor": 1 / 255,
    }


def tokenizer_json(tokenizer: PreTrainedTokenizerFast) -> dict[str, dict[str, Any]]:
    """tokenizer_config.json and special_tokens_map.json; tokenizer.json is copied."""
    tokens = {
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token or tokenizer.eos_token,
        "additional_special_tokens": [IMAGE_TOKEN],
    }
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        "model_max_length": tokenizer.model_max_length,
        "processor_class": "VLChatProcessor",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizerFast",
        "unk_token": None,
        "use_default_system_prompt": False,
        **tokens,
    }
    return {"tokenizer_config.json": settings, "special_tokens_map.json": tokens}
