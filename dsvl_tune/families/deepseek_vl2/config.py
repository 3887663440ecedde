"""The configuration of a DeepSeek-VL2 checkpoint in transformers' terms, from either layout.

Published files of the original layout leave out every key that equals the default of DeepSeek's
own classes. Those defaults are here; transformers' own would silently be other models.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.families.deepseek_vl2.config_bounds import check_original_settings, check_settings
from dsvl_tune.families.deepseek_vl2.modeling.configuration import DeepseekVL2Config
from dsvl_tune.families.deepseek_vl2.tokenizer import IMAGE_TOKEN

if TYPE_CHECKING:
    from dsvl_tune.core.checkpoint import Checkpoint

ORIGINAL = "deepseek_vl_v2"
"""`model_type` of the original layout, which DeepSeek-OCR and DeepSeek-OCR-2 share."""

CANDIDATES = [[384, 384]]
EPS = 1e-6
"""Of SigLIP's layer norms. Source: deepseek_vl2/models/siglip_vit.py."""

# Sources: configuration_deepseek.py, modeling_deepseek_vl_v2.py (VisionEncoderConfig,
# MlpProjectorConfig, DeepseekVLV2Config) of deepseek-ai/DeepSeek-VL2. Those of the decoder are the
# defaults of `DeepseekVL2TextConfig`.
VISION_DEFAULTS: dict[str, Any] = {
    "image_size": 384,
    "patch_size": 16,
    "width": 1024,
    "layers": 24,
    "heads": 16,
    "mlp_ratio": 4,
}
PROJECTOR_DEFAULTS: dict[str, Any] = {
    "projector_type": "downsample_mlp_gelu",
    "depth": 2,
    "mlp_ratio": 1,
    "downsample_ratio": 2,
    "input_dim": 1152,
    "n_embed": 2048,
}
# What every published checkpoint has, and the only thing that is computed here.
FIXED_TOP: dict[str, Any] = {"tile_tag": "2D", "global_view_pos": "head"}
FIXED_PROJECTOR = {key: PROJECTOR_DEFAULTS[key] for key in ("projector_type", "depth", "mlp_ratio")}
FIXED_LANGUAGE: dict[str, Any] = {"moe_layer_freq": 1, "rope_scaling": None}
SCORING = ("softmax", "sigmoid")
METHODS = {"gready": "greedy", "greedy": "greedy", "noaux_tc": "noaux_tc"}
"""The default of DeepSeek's class is misspelt, and means greedy."""

NOT_OURS = ("architectures", "auto_map", "torch_dtype", "model_type", "_name_or_path", "seq_aux")


def is_deepseek_ocr(settings: Mapping[str, Any]) -> bool:
    """Whether a config.json is of DeepSeek-OCR or DeepSeek-OCR-2, which have VL2's `model_type`.

    Those have several vision towers, each with a width of its own.
    """
    if settings.get("model_type") != ORIGINAL:
        return False
    names = f"{settings.get('architectures')} {settings.get('auto_map')}"
    vision = settings.get("vision_config")
    width = vision.get("width") if isinstance(vision, Mapping) else None
    return "OCR" in names or isinstance(width, Mapping)


def read_config(checkpoint: Checkpoint) -> DeepseekVL2Config:
    """The configuration of a checkpoint.

    Raises:
        UserError: it has a setting that no published checkpoint has, or a value out of its bounds.
        KeyError: config.json lacks a key.
        TypeError: a key has a value of another type.
        ValueError: likewise.
    """
    settings, place = checkpoint.settings, f"{checkpoint.folder}/config.json"
    if checkpoint.layout == "transformers":
        check_settings(place, settings)
    else:
        check_original_settings(place, settings)
    try:
        config = unchecked_config(checkpoint)
        check_sizes(config)
    except UserError as error:
        raise UserError(f"{checkpoint.folder}: {error}") from None
    return config


def unchecked_config(checkpoint: Checkpoint) -> DeepseekVL2Config:
    """The configuration of a checkpoint whose values are within their bounds, as `read_config`."""
    if checkpoint.layout == "transformers":
        config: DeepseekVL2Config = DeepseekVL2Config.from_dict(
            copy.deepcopy(dict(checkpoint.settings))
        )
        return config
    image_token_id = 0
    if checkpoint.complete:
        image_token_id = checkpoint.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return original_config(checkpoint.settings, image_token_id)


def original_config(settings: Mapping[str, Any], image_token_id: int) -> DeepseekVL2Config:
    """The configuration of a checkpoint in the original layout.

    Args:
        settings: its config.json.
        image_token_id: from its tokenizer.

    Raises:
        UserError: it has a setting that no published checkpoint has.
    """
    language = dict(settings["language_config"])
    projector = {**PROJECTOR_DEFAULTS, **settings["projector_config"]}
    check_fixed("", settings, FIXED_TOP)
    check_fixed("projector_config.", projector, FIXED_PROJECTOR)
    check_fixed("language_config.", language, FIXED_LANGUAGE)
    text = {key: value for key, value in language.items() if key not in NOT_OURS}
    text = {key: value for key, value in text.items() if key not in FIXED_LANGUAGE}
    method = text.get("topk_method", "gready")
    check_one_of("language_config.topk_method", method, tuple(METHODS))
    text["topk_method"] = METHODS[method]
    return DeepseekVL2Config(
        text_config=text,
        vision_config=siglip_config(settings["vision_config"]),
        image_token_id=image_token_id,
        downsample_ratio=projector["downsample_ratio"],
        candidate_resolutions=settings.get("candidate_resolutions", CANDIDATES),
        tie_word_embeddings=bool(language.get("tie_word_embeddings", False)),
    )


def siglip_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """SigLIP's section in transformers' keys; tanh GELU, no pooling head in use."""
    tower = {**VISION_DEFAULTS, **given}
    return {
        "hidden_size": tower["width"],
        "intermediate_size": int(tower["width"] * tower["mlp_ratio"]),
        "num_hidden_layers": tower["layers"],
        "num_attention_heads": tower["heads"],
        "image_size": tower["image_size"],
        "patch_size": tower["patch_size"],
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": EPS,
        "vision_use_head": False,
    }


def check_fixed(section: str, settings: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Refuse another value of a key that is computed in one way only.

    Raises:
        UserError: naming the key.
    """
    for key, value in fixed.items():
        if settings.get(key, value) != value:
            raise UserError(
                f"config.json: {section}{key} is {settings[key]!r}, expected {value!r}: no "
                "published DeepSeek-VL2 has another."
            )


def check_one_of(key: str, value: Any, known: tuple[str, ...]) -> None:
    """Raise a UserError unless a key has one of the known values."""
    if value not in known:
        raise UserError(
            f"config.json: {key} is {value!r}, expected one of {', '.join(known)}: no published "
            "DeepSeek-VL2 has another."
        )


def check_sizes(config: DeepseekVL2Config) -> None:
    """Compare settings with each other, in either layout.

    Raises:
        UserError: naming the keys that contradict each other or that are computed nowhere here.
    """
    text, vision = config.text_config, config.vision_config
    check_one_of("scoring_func", text.scoring_func, SCORING)
    check_one_of("topk_method", text.topk_method, tuple(METHODS))
    if text.n_routed_experts and not text.num_experts_per_tok:
        raise UserError(
            f"config.json: {text.n_routed_experts} routed experts, but num_experts_per_tok is "
            f"{text.num_experts_per_tok}. Copy config.json again."
        )
    if text.use_mla and text.kv_lora_rank is None:
        raise UserError(
            "config.json: use_mla is true, but kv_lora_rank is null. Copy config.json again."
        )
    sides = [side for pair in config.candidate_resolutions for side in pair]
    if not sides or any(side < 1 or side % vision.image_size for side in sides):
        raise UserError(
            f"config.json: candidate_resolutions holds {config.candidate_resolutions}, expected "
            f"multiples of {vision.image_size}, the side of a tile. Copy config.json again."
        )
