"""Janus and Janus-Pro as a `Family`: DeepSeek-VL's way of understanding under other names.

SigLIP, aligner, language model, prompt and pixels are those of the SigLIP-only DeepSeek-VL, so
everything of images and prompts is inherited. What differs is here: names, files, marks around an
image, and the parts that generate images, which are carried.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import JanusForConditionalGeneration

from dsvl_tune.core.family import ImageCost, Layout, Processor, Shapes, TensorGroup
from dsvl_tune.families.deepseek_vl.config import ORIGINAL
from dsvl_tune.families.deepseek_vl.family import DeepSeekVL
from dsvl_tune.families.janus.config import MODEL_TYPE, is_original, read_config, relative
from dsvl_tune.families.janus.files.card import CARD
from dsvl_tune.families.janus.files.original_settings import (
    complete_settings,
    conversion_notes,
    write_original_settings,
)
from dsvl_tune.families.janus.files.transformers_settings import write_transformers_settings
from dsvl_tune.families.janus.key_map import RULES, unused_tensors
from dsvl_tune.families.janus.modeling import JanusUnderstanding
from dsvl_tune.families.janus.parts import PARTS, PRESETS
from dsvl_tune.families.janus.processor import read_processor
from dsvl_tune.families.janus.tokenizer import BEGIN_OF_IMAGE, END_OF_IMAGE, read_tokenizer
from dsvl_tune.families.key_rules import group_of_transformers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from dsvl_tune.core.checkpoint import Checkpoint

MARKS = 2
"""Tokens around the visual tokens of an image: its begin and its end."""


class Janus(DeepSeekVL):
    """Janus 1.3B, Janus-Pro 1B and 7B, in both layouts."""

    name = "Janus"
    parts = PARTS
    presets = PRESETS
    card = CARD
    pickled_originals = True

    def recognizes(self, settings: Mapping[str, Any]) -> bool:
        return settings.get("model_type") == MODEL_TYPE or is_original(settings)

    def relative(self, settings: Mapping[str, Any]) -> str | None:
        return relative(settings)

    def layout(self, settings: Mapping[str, Any]) -> Layout:
        return "original" if settings["model_type"] == ORIGINAL else "transformers"

    def read_tokenizer(self, checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
        return read_tokenizer(checkpoint.folder)

    def read_config(self, checkpoint: Checkpoint) -> PretrainedConfig:
        return read_config(checkpoint)

    def model_class(self, config: PretrainedConfig) -> type[PreTrainedModel]:
        return JanusForConditionalGeneration

    def loaded_class(self, config: PretrainedConfig) -> type[PreTrainedModel]:
        return JanusUnderstanding

    def read_processor(self, checkpoint: Checkpoint) -> Processor:
        return read_processor(checkpoint)

    def tensor_group(self, name: str, config: PretrainedConfig) -> TensorGroup | None:
        return group_of_transformers(name, RULES)

    def unused_tensors(self, config: PretrainedConfig) -> Shapes:
        return unused_tensors(config)

    def current_name(self, name: str) -> str:
        return name

    def written_name(self, name: str) -> str:
        return name

    def write_settings(
        self, checkpoint: Checkpoint, target: Path, layout: Layout, dtype: str
    ) -> None:
        write = write_original_settings if layout == "original" else write_transformers_settings
        write(checkpoint, target, dtype)

    def complete_settings(self, checkpoint: Checkpoint, target: Path) -> None:
        complete_settings(checkpoint, target)

    def conversion_notes(self, settings: Mapping[str, Any], absent: int) -> list[str]:
        return conversion_notes(settings, absent)

    def image_cost(self, config: PretrainedConfig, images: int) -> ImageCost:
        cost = super().image_cost(config, images)
        return ImageCost(cost.tokens + MARKS, cost.inputs)

    def image_token_ids(
        self, processor: Processor, size: tuple[int, int] | None, images: int
    ) -> list[int]:
        begin, end = (
            processor.tokenizer.convert_tokens_to_ids(mark)
            for mark in (BEGIN_OF_IMAGE, END_OF_IMAGE)
        )
        return [begin, *super().image_token_ids(processor, size, images), end]


JANUS = Janus()
