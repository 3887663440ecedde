"""From a checkpoint's folder to everything that turning conversations into tokens and pixels needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Processor
from dsvl_tune.core.weight_headers import is_original, read_json
from dsvl_tune.families.deepseek_vl.pixels import ImageSettings, TowerPixels
from dsvl_tune.families.deepseek_vl.tokenizer import IMAGE_TOKEN, load_tokenizer, special_ids
from dsvl_tune.families.deepseek_vl.vision_features import visual_tokens
from dsvl_tune.models.checkpoint.load import read_config

# DeepSeek-VL: deepseek_vl/models/processing_vlm.py, VLChatProcessor.system_prompt
ORIGINAL_SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)


def load_processor(folder: Path) -> Processor:
    """Everything but the weights.

    Raises:
        UserError: a file of the folder is missing or contradicts another.
    """
    config = read_config(folder)
    tokenizer = load_tokenizer(folder)
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if image_token_id != config.image_token_id:
        raise UserError(
            f"{folder}: config.json has image_token_id {config.image_token_id}, the tokenizer has {image_token_id} "
            f"for {IMAGE_TOKEN}. Take both from the same checkpoint."
        )
    from dsvl_tune.families import FAMILIES

    ids = special_ids(tokenizer)
    return Processor(
        tokenizer=tokenizer,
        family=FAMILIES[0],
        image_settings=read_image_rule(
            folder,
            hybrid=config.model_type == "deepseek_vl_hybrid",
            tokens=visual_tokens(config),
        ),
        image_token=IMAGE_TOKEN,
        image_token_id=image_token_id,
        default_system=default_system_prompt(tokenizer),
        bos_id=ids["bos_token_id"],
        eos_id=ids["eos_token_id"],
        pad_id=ids["pad_token_id"],
        context_tokens=config.text_config.max_position_embeddings,
    )


def default_system_prompt(tokenizer: PreTrainedTokenizerFast) -> str:
    """The system prompt that the checkpoint's chat template puts before the first user turn ("" if none)."""
    if not tokenizer.chat_template:
        return ORIGINAL_SYSTEM_PROMPT
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "?"}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    before, found, _ = str(text).partition("User: ")
    if not found:
        raise UserError(
            "the checkpoint's chat template renders no 'User: ': it is not DeepSeek-VL's template."
        )
    return before.removeprefix(str(tokenizer.bos_token)).strip()


def read_image_rule(folder: Path, hybrid: bool, tokens: int) -> ImageSettings:
    """The image rule of transformers' preprocessor_config.json (or the image part of processor_config.json).

    The square is padded in the colour of the first resize's mean, as in transformers' image processors and in the
    original's `background_color`: CLIP's mean for the hybrid family, grey (127) for the SigLIP-only one.

    Raises:
        UserError: a file is missing, or a key of it.
    """
    try:
        return (
            read_original_image_rule(folder, tokens)
            if is_original(folder)
            else read_converted_image_rule(folder, hybrid, tokens)
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder}: the image settings of preprocessor_config.json or config.json do not fit the family "
            f"({type(error).__name__}: {error}). Copy both from the base checkpoint."
        ) from error


def read_converted_image_rule(folder: Path, hybrid: bool, tokens: int) -> ImageSettings:
    """The settings of transformers' layout, which has no padding color of its own."""
    settings = read_image_settings(folder)
    min_size = int(settings.get("min_size", 14))
    siglip = TowerPixels(
        int(settings["size"]["height"]),
        triple(settings["image_mean"]),
        triple(settings["image_std"]),
    )
    if not hybrid:
        return ImageSettings(siglip.size, pad_color(siglip), siglip, None, tokens, min_size)
    sam = TowerPixels(
        int(settings["high_res_size"]["height"]),
        triple(settings["high_res_image_mean"]),
        triple(settings["high_res_image_std"]),
    )
    return ImageSettings(sam.size, pad_color(sam), siglip, sam, tokens, min_size)


def read_original_image_rule(folder: Path, tokens: int) -> ImageSettings:
    """The settings of the original layout.

    The padded square is in preprocessor_config.json, mean and std of each vision tower in
    config.json.
    """
    square = read_json(folder / "preprocessor_config.json")
    towers = read_json(folder / "config.json")["vision_config"]["params"]
    red, green, blue = square["background_color"]
    sam = towers.get("high_res_cfg")
    return ImageSettings(
        size=square["image_size"],
        background=(red, green, blue),
        siglip=tower_pixels(towers.get("low_res_cfg", towers)),
        sam=tower_pixels(sam) if sam else None,
        tokens=tokens,
        min_size=square["min_size"],
    )


def tower_pixels(tower: dict[str, Any]) -> TowerPixels:
    """Pixels of a tower of the original layout."""
    return TowerPixels(tower["image_size"], triple(tower["pixel_mean"]), triple(tower["pixel_std"]))


def read_image_settings(folder: Path) -> dict[str, Any]:
    """The image processor's settings: a file of their own, or inside processor_config.json (transformers 5)."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    settings: dict[str, Any] = read_json(folder / "processor_config.json").get(
        "image_processor", {}
    )
    if not settings:
        raise UserError(
            f"{folder}: no image settings (preprocessor_config.json). Copy that of the base checkpoint."
        )
    return settings


def triple(values: list[float] | float) -> tuple[float, float, float]:
    """One value a channel."""
    red, green, blue = values if isinstance(values, list) else [values] * 3
    return float(red), float(green), float(blue)


def pad_color(tower: TowerPixels) -> tuple[int, int, int]:
    """The mean as a color, truncated as the original does."""
    red, green, blue = (int(channel * 255) for channel in tower.mean)
    return red, green, blue
