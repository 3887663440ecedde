"""The files next to the weights that the original code of DeepSeek-VL reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from dsvl_tune.core.checkpoint.weight_headers import read_json
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import atomic_write, write_json
from dsvl_tune.families.deepseek_vl.config import (
    EPS,
    ORIGINAL,
    PROJECTOR_DEPTH,
    PROJECTORS,
    SAM_TOWERS,
    SIGLIP_ONLY,
    SIGLIP_TOWERS,
    Tower,
    has_published_towers,
)
from dsvl_tune.families.deepseek_vl.files.chat_template import chat_template
from dsvl_tune.families.deepseek_vl.pixels import ImageSettings, TowerPixels
from dsvl_tune.families.deepseek_vl.sizes import downsampled_widths, visual_tokens
from dsvl_tune.families.deepseek_vl.tokenizer import IMAGE_TOKEN

if TYPE_CHECKING:
    from dsvl_tune.core.checkpoint import Checkpoint

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
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
)


def write_original_settings(checkpoint: Checkpoint, target: Path, dtype: str) -> None:
    """Write config.json, tokenizer and image settings, for a base that never was in this layout.

    The original has its system prompt in its code; the chat template keeps the one that this
    checkpoint was trained with.

    Args:
        checkpoint: the base.
        target: folder to write to.
        dtype: of most of the written weights.

    Raises:
        UserError: a setting that the original's code has fixed has another value here.
    """
    processor = checkpoint.processor
    files = original_settings(
        checkpoint.config, processor.image_settings, checkpoint.tokenizer, dtype
    )
    for name, content in files.items():
        write_json(target / name, content)
    write_json(target / "tokenizer.json", original_tokenizer(checkpoint.folder / "tokenizer.json"))
    template = chat_template(processor.default_system)
    atomic_write(
        target / "chat_template.jinja",
        lambda partial: partial.write_text(template, encoding="utf-8"),
    )


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
            "two norms) are not in the source and so not here: that code draws them at random, "
            "with a warning and without effect"
        )
    if not has_published_towers(settings):
        notes.append(
            "its vision towers have no published name: config.json holds their sizes, which "
            "dsvl-tune reads and the original's code does not"
        )
    return notes


def original_settings(
    config: PretrainedConfig, images: ImageSettings, tokenizer: PreTrainedTokenizerFast, dtype: str
) -> dict[str, dict[str, Any]]:
    """File name -> content.

    Args:
        config: in transformers' terms.
        images: how images become vision inputs.
        tokenizer: of the checkpoint.
        dtype: of most of the written weights ("float16", ...).

    Raises:
        UserError: a setting that the original's code has fixed has another value here.
    """
    check_fixed(config, FIXED)
    return {
        "config.json": config_json(config, images, dtype),
        "preprocessor_config.json": preprocessor_json(images, normalizes=False),
        "processor_config.json": processor_json(config, "deepseek"),
        **tokenizer_json(tokenizer, [IMAGE_TOKEN]),
    }


def check_fixed(config: PretrainedConfig, fixed: Mapping[str, Any]) -> None:
    """Refuse what the original's code would compute differently, without an error of its own.

    Args:
        config: in transformers' terms.
        fixed: the only value of a key, by its path.

    Raises:
        UserError: naming the key.
    """
    for path, expected in fixed.items():
        value: Any = config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        if value not in (None, expected):
            raise UserError(
                f"the original layout cannot hold {path} {value!r}: its code has {expected!r} "
                "fixed and would give other answers. Write --layout transformers."
            )


def config_json(config: PretrainedConfig, images: ImageSettings, dtype: str) -> dict[str, Any]:
    """config.json of a MultiModalityCausalLM."""
    text = config.text_config
    siglip = siglip_tower(config.vision_config, images.siglip)
    vision: dict[str, Any] = {"cls": "CLIPVisionTower", "model_type": "vision", "params": siglip}
    if images.sam is not None:
        params = {
            "concat_type": "tuple",
            "freeze_high": True,
            "freeze_low": True,
            "high_res_cfg": sam_tower(config.high_res_vision_config, images.sam),
            "low_res_cfg": siglip,
        }
        vision = {"cls": "HybridVisionTower", "model_type": "vision", "params": params}
    width, projector = config.vision_config.hidden_size, PROJECTORS[config.model_type]
    return {
        "aligner_config": aligner_json("aligner", width, text.hidden_size, projector),
        "architectures": ["MultiModalityCausalLM"],
        "language_config": language_json(text, dtype),
        "model_type": ORIGINAL,
        "torch_dtype": dtype,
        "vision_config": vision,
    }


def aligner_json(
    model_type: str, width: int, n_embed: int, projector: str = PROJECTORS[SIGLIP_ONLY]
) -> dict[str, Any]:
    """The section of an aligner.

    Args:
        model_type: of the section.
        width: of its input.
        n_embed: width of its output.
        projector: its type.
    """
    params = {
        "depth": PROJECTOR_DEPTH,
        "input_dim": width,
        "n_embed": n_embed,
        "projector_type": projector,
    }
    return {"cls": "MlpProjector", "model_type": model_type, "params": params}


def language_json(text: PretrainedConfig, dtype: str) -> dict[str, Any]:
    """The language model's section."""
    keys = {key: getattr(text, key) for key in LANGUAGE_KEYS}
    rope = {"rope_theta": text.rope_parameters["rope_theta"]}
    return {"model_type": "llama", "torch_dtype": dtype, **keys, **rope}


def siglip_tower(vision: PretrainedConfig, pixels: TowerPixels) -> dict[str, Any]:
    """SigLIP's section: its published name where it has one, else its sizes."""
    size = Tower(vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads)
    for name, tower in SIGLIP_TOWERS.items():
        if tower == size and f"patch{vision.patch_size}_" in name:
            return tower_json(name, pixels, size.width, {})
    sizes = {
        **size._asdict(),
        "patch_size": vision.patch_size,
        "mlp_ratio": vision.intermediate_size / size.width,
    }
    return tower_json("siglip", pixels, size.width, sizes)


def sam_tower(sam: PretrainedConfig, pixels: TowerPixels) -> dict[str, Any]:
    """SAM's section: its published name where it has one, else its sizes."""
    size = Tower(sam.hidden_size, sam.num_hidden_layers, sam.num_attention_heads)
    downsampled = downsampled_widths(sam)
    for name, tower in SAM_TOWERS.items():
        if tower == size:
            return tower_json(name, pixels, downsampled[-1], {})
    sizes = {
        **size._asdict(),
        "mlp_ratio": sam.mlp_dim / size.width,
        "patch_size": sam.patch_size,
        "window_size": sam.window_size,
        "global_attn_indexes": list(sam.global_attn_indexes),
        "prompt_embed_dim": sam.output_channels,
        "downsample_channels": list(downsampled),
    }
    return tower_json("sam", pixels, downsampled[-1], sizes)


def tower_json(name: str, pixels: TowerPixels, width: int, sizes: dict[str, Any]) -> dict[str, Any]:
    """The keys that every vision tower has.

    Args:
        name: of the tower.
        pixels: its pixels.
        width: of its output.
        sizes: keys of a tower without a published name.
    """
    return {
        "ckpt_path": "",
        "image_size": pixels.size,
        "model_name": name,
        "output_dim": width,
        "pixel_mean": list(pixels.mean),
        "pixel_std": list(pixels.std),
        "select_feature": "same",
        "select_layer": -1,
        **sizes,
    }


def processor_json(config: PretrainedConfig, sft_format: str) -> dict[str, Any]:
    """processor_config.json.

    Args:
        config: in transformers' terms.
        sft_format: name of the prompt's template in the original's code.
    """
    return {
        "add_special_token": False,
        "ignore_id": -100,
        "image_tag": IMAGE_TOKEN,
        "mask_prompt": True,
        "num_image_tokens": visual_tokens(config),
        "processor_class": "VLChatProcessor",
        "sft_format": sft_format,
    }


def preprocessor_json(images: ImageSettings, normalizes: bool) -> dict[str, Any]:
    """preprocessor_config.json: the padded square.

    Args:
        images: how images become vision inputs.
        normalizes: whether the processor does, and not each vision tower for itself.
    """
    square = images.sam or images.siglip
    return {
        "background_color": list(images.background),
        "do_normalize": normalizes,
        "image_mean": list(square.mean),
        "image_processor_type": "VLMImageProcessor",
        "image_size": images.size,
        "image_std": list(square.std),
        "min_size": images.min_size,
        "processor_class": "VLChatProcessor",
        "rescale_factor": 1 / 255,
    }


def original_tokenizer(path: Path) -> dict[str, Any]:
    """The content of a tokenizer.json as tokenizers 0.15 reads it, which the original's code has.

    Later releases write merges as pairs, and a key `ignore_merges`; that one knows neither.

    Raises:
        UserError: it cannot hold the tokenizer, which would give other ids there.
    """
    content = read_json(path)
    model = {**content.get("model", {})}
    if model.pop("ignore_merges", False):
        raise UserError(
            f"{path}: the original layout cannot hold model.ignore_merges true: its tokenizers "
            "0.15 does not know the key and would give other ids. Write --layout transformers."
        )
    merges = []
    for merge in model.get("merges", []):
        parts = merge if isinstance(merge, list) else merge.split(" ")
        if len(parts) != 2 or any(" " in part for part in parts):
            raise UserError(
                f"{path}: the original layout cannot hold the merge {merge!r}: its tokenizers 0.15 "
                "reads two tokens with a space between them. Write --layout transformers."
            )
        merges.append(" ".join(parts))
    return {**content, "model": {**model, "merges": merges}}


def tokenizer_json(
    tokenizer: PreTrainedTokenizerFast, further: list[str]
) -> dict[str, dict[str, Any]]:
    """tokenizer_config.json and special_tokens_map.json.

    Args:
        tokenizer: of the checkpoint.
        further: special tokens besides those that begin, end and pad a text.
    """
    tokens = {
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token or tokenizer.eos_token,
        "additional_special_tokens": further,
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
