"""The files next to the weights that transformers' Janus classes read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import GenerationConfig, JanusForConditionalGeneration

from dsvl_tune.core.dtypes import DTYPES
from dsvl_tune.core.storage.files import write_json
from dsvl_tune.families.deepseek_vl.files.chat_template import chat_template
from dsvl_tune.families.deepseek_vl.files.transformers_settings import image_processor_settings
from dsvl_tune.families.deepseek_vl.sizes import visual_tokens
from dsvl_tune.families.janus.tokenizer import BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE_TOKEN
from dsvl_tune.families.transformers_files import write_config, write_tokenizer

if TYPE_CHECKING:
    from dsvl_tune.core.checkpoint import Checkpoint

PROCESSOR = "JanusProcessor"


def write_transformers_settings(checkpoint: Checkpoint, target: Path, dtype: str) -> None:
    """Write config.json, generation settings, tokenizer, chat template and image settings.

    Args:
        checkpoint: the base.
        target: folder to write to.
        dtype: of most of the written weights.
    """
    processor = checkpoint.processor
    config = copy.deepcopy(checkpoint.config)
    config.architectures = [JanusForConditionalGeneration.__name__]
    config.dtype = DTYPES[dtype]
    write_config(config, target)
    # Image generation asks the settings for the token that begins an image.
    begin = checkpoint.tokenizer.convert_tokens_to_ids(BEGIN_OF_IMAGE)
    GenerationConfig(
        **checkpoint.special_ids, do_sample=False, generation_kwargs={"boi_token_id": begin}
    ).save_pretrained(target)

    write_tokenizer(
        checkpoint.tokenizer,
        target,
        template=chat_template(processor.default_system, processor.roles),
        named_tokens={
            "image_token": IMAGE_TOKEN,
            "boi_token": BEGIN_OF_IMAGE,
            "eoi_token": END_OF_IMAGE,
        },
        processor_class=PROCESSOR,
    )
    image_settings = image_processor_settings(processor.image_settings, "Janus")
    write_json(target / "preprocessor_config.json", image_settings)
    processor_settings = {
        "processor_class": PROCESSOR,
        "num_image_tokens": visual_tokens(config),
        "use_default_system_prompt": False,  # the chat template has it
    }
    write_json(target / "processor_config.json", processor_settings)
