"""DeepSeek-VL as a `Family`: the SigLIP-only models (1.3B) and the hybrid ones (7B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsvl_tune.core.family import (
    Family,
    ImageCost,
    Layout,
    Plan,
    Processor,
    RenderMode,
    Segment,
    Shapes,
    TensorGroup,
)
from dsvl_tune.core.types import Conversation
from dsvl_tune.families.deepseek_vl import pixels, prompt, vision_features
from dsvl_tune.families.deepseek_vl.config import MODELS, ORIGINAL, read_config
from dsvl_tune.families.deepseek_vl.files.card import CARD
from dsvl_tune.families.deepseek_vl.files.original_settings import (
    conversion_notes,
    write_original_settings,
)
from dsvl_tune.families.deepseek_vl.files.transformers_settings import write_transformers_settings
from dsvl_tune.families.deepseek_vl.key_map import (
    RULES,
    SIGLIP_HF,
    SIGLIP_IN_FILES,
    unused_tensors,
)
from dsvl_tune.families.deepseek_vl.parts import PARTS, PRESETS
from dsvl_tune.families.deepseek_vl.processor import read_processor
from dsvl_tune.families.deepseek_vl.sizes import image_cost
from dsvl_tune.families.deepseek_vl.tokenizer import read_tokenizer
from dsvl_tune.families.key_rules import group_of_transformers

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from dsvl_tune.core.checkpoint import Checkpoint


class DeepSeekVL(Family):
    """Both layouts, both kinds of models; each section has its module in this folder."""

    name = "DeepSeek-VL"
    parts = PARTS
    presets = PRESETS
    card = CARD
    needs_image_size = False

    def recognizes(self, settings: Mapping[str, Any]) -> bool:
        """Whether a config.json is of DeepSeek-VL; Janus shares its original `model_type`."""
        if settings.get("model_type") == ORIGINAL:
            return "gen_vision_config" not in settings
        return settings.get("model_type") in MODELS

    def layout(self, settings: Mapping[str, Any]) -> Layout:
        return "original" if settings["model_type"] == ORIGINAL else "transformers"

    def read_tokenizer(self, checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
        return read_tokenizer(checkpoint.folder)

    def read_config(self, checkpoint: Checkpoint) -> PretrainedConfig:
        return read_config(checkpoint)

    def model_class(self, config: PretrainedConfig) -> type[PreTrainedModel]:
        return MODELS[config.model_type]

    def read_processor(self, checkpoint: Checkpoint) -> Processor:
        return read_processor(checkpoint)

    def tensor_group(self, name: str, config: PretrainedConfig) -> TensorGroup | None:
        return group_of_transformers(name, RULES[config.model_type])

    def unused_tensors(self, config: PretrainedConfig) -> Shapes:
        return unused_tensors(config)

    def current_name(self, name: str) -> str:
        return name.replace(SIGLIP_IN_FILES, SIGLIP_HF, 1)

    def written_name(self, name: str) -> str:
        return name.replace(SIGLIP_HF, SIGLIP_IN_FILES, 1)

    def write_settings(
        self, checkpoint: Checkpoint, target: Path, layout: Layout, dtype: str
    ) -> None:
        write = write_original_settings if layout == "original" else write_transformers_settings
        write(checkpoint, target, dtype)

    def conversion_notes(self, settings: Mapping[str, Any], absent: int) -> list[str]:
        return conversion_notes(settings, absent)

    def image_cost(self, config: PretrainedConfig, images: int) -> ImageCost:
        return image_cost(config)

    def render(
        self, conversation: Conversation, processor: Processor, mode: RenderMode
    ) -> list[Segment]:
        return prompt.render(conversation, processor, mode)

    def image_token_ids(
        self, processor: Processor, size: tuple[int, int] | None, images: int
    ) -> list[int]:
        return [processor.image_token_id] * processor.image_settings.tokens

    def pad_image(self, image: Image, processor: Processor, images: int) -> dict[str, Tensor]:
        return pixels.pad_image(image, processor.image_settings)

    def padded_shapes(self, processor: Processor) -> Shapes:
        return pixels.padded_shapes(processor.image_settings)

    def vision_input(self, padded: Mapping[str, Tensor], processor: Processor) -> dict[str, Tensor]:
        return pixels.split_image(padded, processor.image_settings)

    def normalize(
        self, vision_inputs: Mapping[str, Tensor], processor: Processor
    ) -> dict[str, Tensor]:
        return pixels.normalize(vision_inputs, processor.image_settings)

    def gray_levels(
        self, vision_inputs: Mapping[str, Tensor], processor: Processor
    ) -> dict[str, Tensor]:
        return pixels.gray_levels(vision_inputs, processor.image_settings)

    def image_digest(self, processor: Processor) -> str:
        return pixels.image_digest(processor.image_settings)

    def encode_images(
        self, model: PreTrainedModel, vision_inputs: Mapping[str, Tensor]
    ) -> Tensor | Sequence[Tensor]:
        return vision_features.encode_images(model, vision_inputs)

    def forward_inputs(
        self, vision_inputs: Mapping[str, Tensor], image_index: Tensor
    ) -> dict[str, Tensor]:
        return {name: tensor[image_index] for name, tensor in vision_inputs.items()}

    def blank_vision_inputs(self, processor: Processor) -> dict[str, Tensor]:
        return pixels.blank_inputs(processor.image_settings)

    def blankable_inputs(self, processor: Processor) -> Mapping[str, frozenset[str]]:
        return pixels.blankable_inputs(processor.image_settings)

    def cacheable_features(self, plan: Plan) -> dict[str, set[str]]:
        return vision_features.cacheable_features(plan)

    def finishing_parts(self, names: set[str]) -> set[str]:
        return vision_features.finishing_parts(names)

    def feature_shapes(self, config: PretrainedConfig, names: set[str]) -> Shapes:
        return vision_features.feature_shapes(config, names)

    def compute_features(
        self, model: PreTrainedModel, names: set[str], vision_inputs: Mapping[str, Tensor]
    ) -> list[dict[str, Tensor]]:
        return vision_features.compute_features(model, names, vision_inputs)

    def finish_images(
        self, model: PreTrainedModel, features: Mapping[str, Tensor]
    ) -> Tensor | Sequence[Tensor]:
        return vision_features.finish_images(model, features)


DEEPSEEK_VL = DeepSeekVL()
