"""Everything that turning conversations into tokens and vision inputs needs of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsvl_tune.core.checkpoint.weight_headers import read_json
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor
from dsvl_tune.families.deepseek_vl2.config_bounds import check_image_settings
from dsvl_tune.families.deepseek_vl2.layout import view_side
from dsvl_tune.families.deepseek_vl2.pixels import ImageSettings
from dsvl_tune.families.deepseek_vl2.tokenizer import ASSISTANT, IMAGE_TOKEN, USER

if TYPE_CHECKING:
    from dsvl_tune.core.checkpoint import Checkpoint

PROCESSOR_FILE = "processor_config.json"
"""In both layouts: the keys of the original's processor."""


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
    if len(tokenizer) > config.text_config.vocab_size:
        raise UserError(
            f"{checkpoint.folder}: the tokenizer has {len(tokenizer)} tokens, config.json says "
            f"vocab_size {config.text_config.vocab_size}. Take both from the same checkpoint."
        )
    ids = checkpoint.special_ids
    return Processor(
        tokenizer=tokenizer,
        family=checkpoint.family,
        image_settings=read_image_settings(checkpoint),
        image_token=IMAGE_TOKEN,
        image_token_id=image_token_id,
        default_system="",
        roles=(USER, ASSISTANT),
        bos_id=ids["bos_token_id"],
        eos_id=ids["eos_token_id"],
        pad_id=ids["pad_token_id"],
        context_tokens=config.text_config.max_position_embeddings,
    )


def read_image_settings(checkpoint: Checkpoint) -> ImageSettings:
    """How the checkpoint cuts pictures into tiles.

    Raises:
        UserError: a file is missing, or does not fit config.json.
    """
    settings = read_json(checkpoint.folder / PROCESSOR_FILE)
    place = f"{checkpoint.folder}/{PROCESSOR_FILE}"
    check_image_settings(place, settings)
    try:
        return image_settings(checkpoint.config, settings)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{place}: the image settings do not fit the family ({type(error).__name__}: {error}). "
            "Copy it from the base checkpoint."
        ) from error


def image_settings(config: Any, settings: dict[str, Any]) -> ImageSettings:
    """Image settings from the content of both files.

    Raises:
        KeyError: a key is missing.
        TypeError: a key has a value of another type.
        ValueError: a key has another value than config.json.
    """
    tile = config.vision_config.image_size
    expected = {
        "patch_size": config.vision_config.patch_size,
        "downsample_ratio": config.downsample_ratio,
        "normalize": True,
    }
    for key, value in expected.items():
        if settings.get(key, value) != value:
            raise ValueError(f"{key} is {settings[key]!r}, expected {value!r}")
    candidates = tuple((int(w), int(h)) for w, h in settings["candidate_resolutions"])
    if not candidates or any(side < 1 or side % tile for pair in candidates for side in pair):
        raise ValueError(f"candidate_resolutions {candidates}, expected multiples of {tile}")
    return ImageSettings(
        tile=tile,
        candidates=candidates,
        side=view_side(config),
        mean=triple(settings.get("image_mean", (0.5, 0.5, 0.5))),
        std=triple(settings.get("image_std", (0.5, 0.5, 0.5))),
    )


def triple(values: Any) -> tuple[float, float, float]:
    """One value a channel."""
    red, green, blue = values
    return float(red), float(green), float(blue)
