"""Everything that turning conversations into tokens and vision inputs needs of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerFast

from dsvl_tune.core.checkpoint.weight_headers import read_json
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor
from dsvl_tune.core.limits import ProgramFailed, render_template
from dsvl_tune.families.deepseek_vl.config import is_hybrid
from dsvl_tune.families.deepseek_vl.config_bounds import check_image_settings
from dsvl_tune.families.deepseek_vl.pixels import ImageSettings, TowerPixels
from dsvl_tune.families.deepseek_vl.sizes import visual_tokens
from dsvl_tune.families.deepseek_vl.tokenizer import IMAGE_TOKEN

if TYPE_CHECKING:
    from dsvl_tune.core.checkpoint import Checkpoint

ORIGINAL_SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
"""Source: deepseek_vl/models/processing_vlm.py, VLChatProcessor.system_prompt."""

DEFAULT_MIN_SIZE = 14
"""Shortest side of a resized image in px where the file does not say."""


def read_processor(checkpoint: Checkpoint) -> Processor:
    """Everything but the weights.

    Raises:
        UserError: a file of the folder is missing or contradicts another.
    """
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    check_vocabulary(checkpoint)
    if image_token_id != config.image_token_id:
        raise UserError(
            f"{checkpoint.folder}: config.json has image_token_id {config.image_token_id}, the "
            f"tokenizer has {image_token_id} for {IMAGE_TOKEN}. Take both from the same checkpoint."
        )
    ids = checkpoint.special_ids
    return Processor(
        tokenizer=tokenizer,
        family=checkpoint.family,
        image_settings=read_image_settings(checkpoint),
        image_token=IMAGE_TOKEN,
        image_token_id=image_token_id,
        default_system=default_system_prompt(tokenizer, "User", checkpoint.folder),
        bos_id=ids["bos_token_id"],
        eos_id=ids["eos_token_id"],
        pad_id=ids["pad_token_id"],
        context_tokens=config.text_config.max_position_embeddings,
    )


def check_vocabulary(checkpoint: Checkpoint) -> None:
    """Raise if the tokenizer has an id that the model has no embedding for.

    Raises:
        UserError: its files and config.json are of different checkpoints.
    """
    largest = max(checkpoint.tokenizer.get_vocab().values(), default=0)
    vocabulary = checkpoint.config.text_config.vocab_size
    if largest >= vocabulary:
        raise UserError(
            f"{checkpoint.folder}: the tokenizer has ids up to {largest:,}, config.json has "
            f"vocab_size {vocabulary:,}. Take both from the same checkpoint."
        )


def default_system_prompt(tokenizer: PreTrainedTokenizerFast, user: str, folder: Path) -> str:
    """What the checkpoint's chat template puts before the first user turn ("" if nothing).

    Args:
        tokenizer: of the checkpoint, with its template; without one it has the original's prompt.
        user: what the template calls the user.
        folder: of the checkpoint, for the message.

    Raises:
        UserError: the template is faulty, takes too long, or is not the one of the family.
    """
    if not tokenizer.chat_template:
        return ORIGINAL_SYSTEM_PROMPT
    before, found, _ = rendered_question(tokenizer, folder).partition(f"{user}: ")
    if not found:
        raise UserError(
            f"{folder}: the chat template renders no '{user}: ': it is not the template of its "
            "family."
        )
    return before.removeprefix(str(tokenizer.bos_token)).strip()


def rendered_question(tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
    """What the checkpoint's chat template makes of a question.

    Args:
        tokenizer: of the checkpoint, with its template, which is a program that anybody may have
            written.
        folder: of the checkpoint, for the message.

    Raises:
        UserError: the template is faulty, or takes too much time or memory.
    """
    variables = {
        **tokenizer.special_tokens_map,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}]}],
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
    }
    try:
        return render_template(tokenizer.get_chat_template(), variables)
    except (ProgramFailed, ValueError) as error:  # the latter: of several templates
        raise UserError(
            f"{folder}: the chat template cannot be rendered ({error}). Copy chat_template.jinja, "
            "or chat_template in tokenizer_config.json, again."
        ) from error


def read_image_settings(checkpoint: Checkpoint) -> ImageSettings:
    """How the checkpoint turns images into vision inputs.

    The padding color is the mean of the first resize, as in transformers' image processors and in
    the original's `background_color`: CLIP's mean for the hybrid models, gray (127) for the
    SigLIP-only ones.

    Raises:
        UserError: a file is missing, or a key of it.
    """
    try:
        if checkpoint.layout == "original":
            settings = original_image_settings(checkpoint)
        else:
            settings = transformers_image_settings(checkpoint)
        check_sizes(checkpoint, settings)
        return settings
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{checkpoint.folder}: the image settings of preprocessor_config.json or config.json "
            f"do not fit the family ({type(error).__name__}: {error}). Copy both from the base "
            "checkpoint."
        ) from error


def check_sizes(checkpoint: Checkpoint, settings: ImageSettings) -> None:
    """Raise if pictures would get another size than the model takes.

    Raises:
        UserError: preprocessor_config.json and config.json differ.
    """
    made = {"vision_config": settings.siglip, "high_res_vision_config": settings.sam}
    for name, tower in made.items():
        if tower is None:
            continue
        expected = getattr(checkpoint.config, name).image_size
        if tower.size != expected:
            raise UserError(
                f"{checkpoint.folder}: pictures would be {tower.size} px wide "
                f"(preprocessor_config.json), but {name}.image_size of config.json is {expected}. "
                "Copy both from the base checkpoint."
            )
    if settings.min_size > settings.size:
        raise UserError(
            f"{checkpoint.folder}: min_size {settings.min_size} of preprocessor_config.json is "
            f"more than the image size {settings.size}."
        )


def transformers_image_settings(checkpoint: Checkpoint) -> ImageSettings:
    """The settings of transformers' layout, which has no padding color of its own."""
    settings = read_preprocessor_json(checkpoint.folder)
    check_image_settings(f"{checkpoint.folder}: image settings", settings)
    config = checkpoint.config
    return image_settings_of(settings, hybrid=is_hybrid(config), tokens=visual_tokens(config))


def image_settings_of(settings: Mapping[str, Any], *, hybrid: bool, tokens: int) -> ImageSettings:
    """How the images of a checkpoint become vision inputs, from what transformers has of it.

    Args:
        settings: of transformers' image processor.
        hybrid: whether the model has a SAM tower.
        tokens: visual tokens of an image.
    """
    siglip = TowerPixels(
        size=int(settings["size"]["height"]),
        mean=triple(settings["image_mean"]),
        std=triple(settings["image_std"]),
    )
    sam = None
    if hybrid:
        sam = TowerPixels(
            size=int(settings["high_res_size"]["height"]),
            mean=triple(settings["high_res_image_mean"]),
            std=triple(settings["high_res_image_std"]),
        )
    first = sam or siglip
    return ImageSettings(
        size=first.size,
        background=pad_color(first),
        siglip=siglip,
        sam=sam,
        tokens=tokens,
        min_size=int(settings.get("min_size", DEFAULT_MIN_SIZE)),
    )


def original_image_settings(checkpoint: Checkpoint) -> ImageSettings:
    """The settings of the original layout.

    The padded square is in preprocessor_config.json, mean and std of each vision tower in
    config.json.
    """
    square = read_json(checkpoint.folder / "preprocessor_config.json")
    check_image_settings(f"{checkpoint.folder}/preprocessor_config.json", square)
    towers = checkpoint.settings["vision_config"]["params"]
    red, green, blue = square["background_color"]
    sam = towers.get("high_res_cfg")
    return ImageSettings(
        size=square["image_size"],
        background=(red, green, blue),
        siglip=tower_pixels(towers.get("low_res_cfg", towers)),
        sam=tower_pixels(sam) if sam else None,
        tokens=visual_tokens(checkpoint.config),
        min_size=square["min_size"],
    )


def tower_pixels(tower: dict[str, Any]) -> TowerPixels:
    """Pixels of a vision tower of the original layout."""
    return TowerPixels(
        size=tower["image_size"],
        mean=triple(tower["pixel_mean"]),
        std=triple(tower["pixel_std"]),
    )


def read_preprocessor_json(folder: Path) -> dict[str, Any]:
    """The image processor's settings: a file of their own, or part of processor_config.json.

    transformers 5 writes the latter.

    Raises:
        UserError: there are none.
    """
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    content = read_json(folder / "processor_config.json")
    settings: dict[str, Any] = content.get("image_processor", {})
    if not settings:
        raise UserError(
            f"{folder}: no image settings (preprocessor_config.json). Copy that of the base "
            "checkpoint."
        )
    return settings


def triple(values: list[float] | float) -> tuple[float, float, float]:
    """One value a channel."""
    red, green, blue = values if isinstance(values, list) else [values] * 3
    return float(red), float(green), float(blue)


def pad_color(tower: TowerPixels) -> tuple[int, int, int]:
    """The mean as a color, truncated as in the original."""
    red, green, blue = (int(channel * 255) for channel in tower.mean)
    return red, green, blue
