"""Everything that turning conversations into tokens and vision inputs needs of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsvl_tune.core.checkpoint.weight_headers import read_json
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor
from dsvl_tune.families.deepseek_vl.config_bounds import check_image_settings
from dsvl_tune.families.deepseek_vl.pixels import ImageSettings, TowerPixels
from dsvl_tune.families.deepseek_vl.processor import (
    ORIGINAL_SYSTEM_PROMPT,
    default_system_prompt,
    pad_color,
    rendered_question,
    transformers_image_settings,
    triple,
)
from dsvl_tune.families.deepseek_vl.sizes import visual_tokens
from dsvl_tune.families.janus.tokenizer import IMAGE_TOKEN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from dsvl_tune.core.checkpoint import Checkpoint

ROLES = {
    "deepseek": ("<|User|>", "<|Assistant|>"),
    "deepseek_old": ("User", "Assistant"),
}
"""What the two templates of janus/utils/conversation.py call the sides, by their names."""

OLD_ROLES = "deepseek_old"
FIRST_MODEL = "Janus-1.3B"
"""Published with plain roles, before the other template had its name (README.md of
deepseek-ai/Janus)."""

DEFAULT_MEAN = (0.48145466, 0.4578275, 0.40821073)
DEFAULT_STD = (0.26862954, 0.26130258, 0.27577711)
DEFAULT_MIN_SIZE = 14
"""Where preprocessor_config.json does not say (janus/models/image_processing_vlm.py)."""


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
    roles = read_roles(checkpoint)
    ids = checkpoint.special_ids
    return Processor(
        tokenizer=tokenizer,
        family=checkpoint.family,
        image_settings=read_image_settings(checkpoint),
        image_token=IMAGE_TOKEN,
        image_token_id=image_token_id,
        default_system=read_system_prompt(checkpoint, roles[0]),
        bos_id=ids["bos_token_id"],
        eos_id=ids["eos_token_id"],
        pad_id=ids["pad_token_id"],
        context_tokens=config.text_config.max_position_embeddings,
        roles=roles,
    )


def has_own_template(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint's chat template decides on its prompt.

    The original code never reads one: in its layout only the file counts that exports have.
    """
    if checkpoint.layout == "transformers":
        return bool(checkpoint.tokenizer.chat_template)
    return (checkpoint.folder / "chat_template.jinja").is_file()


def read_roles(checkpoint: Checkpoint) -> tuple[str, str]:
    """What the checkpoint's prompt calls the user and the assistant.

    The original code leaves that to its caller, so the files say it at most by the name of the
    template.

    Raises:
        UserError: it has the template of another family.
    """
    if has_own_template(checkpoint):
        text = rendered_question(checkpoint.tokenizer, checkpoint.folder)
        rendered = [roles for roles in ROLES.values() if f"{roles[0]}: " in text]
        if not rendered:
            raise UserError(
                f"{checkpoint.folder}: the chat template renders none of "
                f"{', '.join(user for user, _ in ROLES.values())}: it is not Janus's template."
            )
        return rendered[0]
    if Path(checkpoint.name).name == FIRST_MODEL:
        return ROLES[OLD_ROLES]
    return roles_of_files(checkpoint.folder, checkpoint.tokenizer)


def roles_of_files(folder: Path, tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """What the files of a folder, in the original layout, say of the roles.

    Raises:
        UserError: its template has another name.
    """
    name = read_processor_settings(folder).get("sft_format", "deepseek")
    if name not in ROLES:
        raise UserError(
            f"{folder}/processor_config.json: sft_format is {name!r}, expected one of "
            f"{', '.join(ROLES)}."
        )
    marked = ROLES[name][0] in tokenizer.get_vocab()
    return ROLES[name] if marked else ROLES[OLD_ROLES]


def read_system_prompt(checkpoint: Checkpoint, user: str) -> str:
    """The system prompt of conversations that bring none.

    transformers' own converter has the processor put it before the prompt, not the template.
    """
    if not has_own_template(checkpoint):
        return ORIGINAL_SYSTEM_PROMPT
    settings = read_processor_settings(checkpoint.folder)
    if settings.get("use_default_system_prompt", False) and checkpoint.layout == "transformers":
        return ORIGINAL_SYSTEM_PROMPT
    return default_system_prompt(checkpoint.tokenizer, user, checkpoint.folder)


def read_processor_settings(folder: Path) -> dict[str, Any]:
    """The content of processor_config.json; {} without one."""
    path = folder / "processor_config.json"
    return read_json(path) if path.is_file() else {}


def read_image_settings(checkpoint: Checkpoint) -> ImageSettings:
    """How the checkpoint turns pictures into vision inputs.

    Raises:
        UserError: a file is missing, or a key of it.
    """
    try:
        if checkpoint.layout == "transformers":
            return transformers_image_settings(checkpoint)
        return original_image_settings(checkpoint)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{checkpoint.folder}: the image settings of preprocessor_config.json do not fit the "
            f"family ({type(error).__name__}: {error}). Copy the file from the base checkpoint."
        ) from error


def original_image_settings(checkpoint: Checkpoint) -> ImageSettings:
    """The settings of the original layout, whose processor normalizes for the tower.

    The padding color is the mean, whatever the file has as background_color: the original computes
    it (VLMImageProcessor).
    """
    settings = read_json(checkpoint.folder / "preprocessor_config.json")
    check_image_settings(f"{checkpoint.folder}/preprocessor_config.json", settings)
    mean = triple(settings.get("image_mean", list(DEFAULT_MEAN)))
    std = triple(settings.get("image_std", list(DEFAULT_STD)))
    size = int(settings["image_size"])
    background = pad_color(TowerPixels(size, mean, std))
    if not settings.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return ImageSettings(
        size=size,
        background=background,
        siglip=TowerPixels(size, mean, std),
        sam=None,
        tokens=visual_tokens(checkpoint.config),
        min_size=int(settings.get("min_size", DEFAULT_MIN_SIZE)),
    )
