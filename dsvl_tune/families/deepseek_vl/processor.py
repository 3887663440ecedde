"""From a checkpoint's folder to everything that turning conversations into tokens and pixels needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerFast

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Branch, ImageRule, Processor
from dsvl_tune.core.weight_headers import read_json
from dsvl_tune.families.deepseek_vl.config import is_hybrid
from dsvl_tune.families.deepseek_vl.sizes import visual_tokens
from dsvl_tune.families.deepseek_vl.tokenizer import IMAGE_TOKEN

if TYPE_CHECKING:
    from dsvl_tune.core.checkpoint import Checkpoint

# DeepSeek-VL: deepseek_vl/models/processing_vlm.py, VLChatProcessor.system_prompt
ORIGINAL_SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)


def read_processor(checkpoint: Checkpoint) -> Processor:
    """Everything but the weights.

    Raises:
        UserError: a file of the folder is missing or contradicts another.
    """
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if image_token_id != config.image_token_id:
        raise UserError(
            f"{checkpoint.folder}: config.json has image_token_id {config.image_token_id}, the "
            f"tokenizer has {image_token_id} for {IMAGE_TOKEN}. Take both from the same checkpoint."
        )
    ids = checkpoint.special_ids
    return Processor(
        tokenizer=tokenizer,
        image_rule=read_image_rule(checkpoint),
        image_token=IMAGE_TOKEN,
        image_token_id=image_token_id,
        image_tokens=visual_tokens(config),
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


def read_image_rule(checkpoint: Checkpoint) -> ImageRule:
    """How the checkpoint turns pictures into pixels.

    The padding color is the mean of the first resize, as in transformers' image processors and in
    the original's `background_color`: CLIP's mean for the hybrid models, gray (127) for the
    SigLIP-only ones.

    Raises:
        UserError: a file is missing, or a key of it.
    """
    folder = checkpoint.folder
    try:
        if checkpoint.layout == "original":
            return read_original_image_rule(checkpoint)
        return read_converted_image_rule(folder, is_hybrid(checkpoint.config))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder}: the image settings of preprocessor_config.json or config.json do not fit "
            f"the family ({type(error).__name__}: {error}). Copy both from the base checkpoint."
        ) from error


def read_converted_image_rule(folder: Path, hybrid: bool) -> ImageRule:
    """The rule of transformers' settings, which have no padding color of their own."""
    settings = read_image_settings(folder)
    low = Branch(
        int(settings["size"]["height"]),
        triple(settings["image_mean"]),
        triple(settings["image_std"]),
    )
    if not hybrid:
        return ImageRule(low.size, pad_colour(low), low, None, int(settings.get("min_size", 14)))
    high = Branch(
        int(settings["high_res_size"]["height"]),
        triple(settings["high_res_image_mean"]),
        triple(settings["high_res_image_std"]),
    )
    return ImageRule(high.size, pad_colour(high), low, high, int(settings.get("min_size", 14)))


def read_original_image_rule(checkpoint: Checkpoint) -> ImageRule:
    """The rule of the original layout.

    The padded square is in preprocessor_config.json, mean and std of each vision tower in
    config.json.
    """
    square = read_json(checkpoint.folder / "preprocessor_config.json")
    towers = checkpoint.settings["vision_config"]["params"]
    red, green, blue = square["background_color"]
    low, high = (
        Branch(tower["image_size"], triple(tower["pixel_mean"]), triple(tower["pixel_std"]))
        if tower
        else None
        for tower in (towers.get("low_res_cfg", towers), towers.get("high_res_cfg"))
    )
    assert low is not None
    return ImageRule(square["image_size"], (red, green, blue), low, high, square["min_size"])


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


def pad_colour(branch: Branch) -> tuple[int, int, int]:
    """The mean as a colour, truncated as the original does."""
    red, green, blue = (int(channel * 255) for channel in branch.mean)
    return red, green, blue
