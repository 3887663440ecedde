"""DeepSeek-VL2 as a `Family`: Tiny, Small and the one without a suffix."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from dsvl_tune.families.deepseek_vl2 import config as configurations
from dsvl_tune.families.deepseek_vl2 import key_map, pixels, prompt, vision_features
from dsvl_tune.families.deepseek_vl2.files import settings
from dsvl_tune.families.deepseek_vl2.files.card import CARD
from dsvl_tune.families.deepseek_vl2.modeling import DeepseekVL2ForConditionalGeneration
from dsvl_tune.families.deepseek_vl2.modeling.configuration import MODEL_TYPE
from dsvl_tune.families.deepseek_vl2.modeling.experts import Router
from dsvl_tune.families.deepseek_vl2.parts import PARTS, PRESETS
from dsvl_tune.families.deepseek_vl2.processor import read_processor
from dsvl_tune.families.deepseek_vl2.sizes import image_cost
from dsvl_tune.families.deepseek_vl2.tokenizer import read_tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from dsvl_tune.core.checkpoint import Checkpoint


class DeepSeekVL2(Family):
    """Both layouts, all sizes; each section has its module in this folder."""

    name = "DeepSeek-VL2"
    parts = PARTS
    presets = PRESETS
    card = CARD
    needs_image_size = True

    def recognizes(self, settings: Mapping[str, Any]) -> bool:
        model_types = (configurations.ORIGINAL, MODEL_TYPE)
        return settings.get("model_type") in model_types

    def relative(self, settings: Mapping[str, Any]) -> str | None:
        return "DeepSeek-OCR" if configurations.is_deepseek_ocr(settings) else None

    def layout(self, settings: Mapping[str, Any]) -> Layout:
        original = settings["model_type"] == configurations.ORIGINAL
        return "original" if original else "transformers"

    def read_tokenizer(self, checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
        return read_tokenizer(checkpoint.folder)

    def read_config(self, checkpoint: Checkpoint) -> PretrainedConfig:
        return configurations.read_config(checkpoint)

    def model_class(self, config: PretrainedConfig) -> type[PreTrainedModel]:
        return DeepseekVL2ForConditionalGeneration

    def read_processor(self, checkpoint: Checkpoint) -> Processor:
        return read_processor(checkpoint)

    def tensor_group(self, name: str, config: PretrainedConfig) -> TensorGroup | None:
        return key_map.tensor_group(name, config)

    def unused_tensors(self, config: PretrainedConfig) -> Shapes:
        return key_map.unused_tensors(config)

    def current_name(self, name: str) -> str:
        return name

    def write_settings(
        self, checkpoint: Checkpoint, target: Path, layout: Layout, dtype: str
    ) -> None:
        settings.write_settings(checkpoint, target, layout, dtype)

    def complete_settings(self, checkpoint: Checkpoint, target: Path) -> None:
        settings.write_template(target)

    def conversion_notes(self, settings_read: Mapping[str, Any], absent: int) -> list[str]:
        return settings.conversion_notes(settings_read, absent)

    def image_cost(self, config: PretrainedConfig, images: int) -> ImageCost:
        return image_cost(config, images)

    def render(
        self, conversation: Conversation, processor: Processor, mode: RenderMode
    ) -> list[Segment]:
        return prompt.render(conversation, processor, mode)

    def image_token_ids(
        self, processor: Processor, size: tuple[int, int] | None, images: int
    ) -> list[int]:
        assert size is not None, "needs_image_size"
        tokens = pixels.image_tokens(size, processor.image_settings, images)
        return [processor.image_token_id] * tokens

    def tiles_label(self, processor: Processor, tokens: int) -> str:
        return pixels.tiles_label(tokens, processor.image_settings)

    def tile_grid(self, processor: Processor, tokens: int) -> tuple[int, int]:
        return pixels.grid_of(tokens, processor.image_settings)

    def limit_tiles(self, processor: Processor, most: int) -> Processor:
        images = processor.image_settings
        candidates = pixels.limit_tiles(images.candidates, images.tile, most)
        return replace(processor, image_settings=replace(images, candidates=candidates))

    def limit_config(self, config: PretrainedConfig, most: int) -> PretrainedConfig:
        limited = copy.deepcopy(config)
        limited.candidate_resolutions = pixels.limit_tiles(
            config.candidate_resolutions, config.vision_config.image_size, most
        )
        return limited

    def pad_image(self, image: Image, processor: Processor, images: int) -> dict[str, Tensor]:
        return pixels.pad_image(image, processor.image_settings, images)

    def padded_shapes(self, processor: Processor) -> Shapes:
        return pixels.padded_shapes(processor.image_settings)

    def vision_input(self, padded: Mapping[str, Tensor], processor: Processor) -> dict[str, Tensor]:
        return dict(padded)

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
        return vision_features.forward_inputs(vision_inputs, image_index)

    def blank_vision_inputs(self, processor: Processor) -> dict[str, Tensor]:
        return pixels.blank_inputs(processor.image_settings)

    def blankable_inputs(self, processor: Processor) -> Mapping[str, frozenset[str]]:
        return {"image": frozenset({pixels.TILES})}

    def routers(self, model: PreTrainedModel) -> list[nn.Module]:
        return [module for module in model.modules() if isinstance(module, Router)]

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


DEEPSEEK_VL2 = DeepSeekVL2()
