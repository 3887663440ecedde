"""DeepSeek-VL as a `Family`: the SigLIP-only models (1.3B) and the hybrid ones (7B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsvl_tune.core.types import Conversation, Processor
from dsvl_tune.families.base import (
    Family,
    ImageCost,
    Layout,
    Plan,
    RenderMode,
    Segment,
    Shapes,
    TensorGroup,
)
from dsvl_tune.families.deepseek_vl.card import CARD
from dsvl_tune.families.deepseek_vl.parts import PARTS, PRESETS

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from dsvl_tune.core.checkpoint import Checkpoint
    from dsvl_tune.core.types import VisionInput  # type: ignore[attr-defined]


class DeepSeekVL(Family):
    """Both layouts, both kinds of models; each section has its module in this folder."""

    name = "DeepSeek-VL"
    parts = PARTS
    presets = PRESETS
    card = CARD
    needs_image_size = False

    def recognizes(self, settings: Mapping[str, Any]) -> bool:
        """Transformers' two model types, or the original one without Janus' generation modules."""
        raise NotImplementedError

    def layout(self, settings: Mapping[str, Any]) -> Layout:
        raise NotImplementedError

    def read_tokenizer(self, checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
        raise NotImplementedError

    def read_config(self, checkpoint: Checkpoint) -> PretrainedConfig:
        raise NotImplementedError

    def model_class(self, config: PretrainedConfig) -> type[PreTrainedModel]:
        raise NotImplementedError

    def read_processor(self, checkpoint: Checkpoint) -> Processor:
        raise NotImplementedError

    def tensor_group(self, name: str, config: PretrainedConfig) -> TensorGroup | None:
        raise NotImplementedError

    def unused_tensors(self, config: PretrainedConfig) -> Shapes:
        raise NotImplementedError

    def current_name(self, name: str) -> str:
        raise NotImplementedError

    def write_settings(
        self, checkpoint: Checkpoint, target: Path, layout: Layout, dtype: str
    ) -> None:
        raise NotImplementedError

    def conversion_notes(self, settings: Mapping[str, Any], absent: int) -> list[str]:
        raise NotImplementedError

    def image_cost(self, config: PretrainedConfig, images: int) -> ImageCost:
        raise NotImplementedError

    def render(
        self, conversation: Conversation, processor: Processor, mode: RenderMode
    ) -> list[Segment]:
        raise NotImplementedError

    def image_token_ids(
        self, processor: Processor, size: tuple[int, int] | None, images: int
    ) -> list[int]:
        raise NotImplementedError

    def vision_input(self, image: Image, processor: Processor, compact: bool) -> VisionInput:
        raise NotImplementedError

    def encode_images(
        self, model: PreTrainedModel, vision_inputs: Mapping[str, Tensor]
    ) -> Tensor | Sequence[Tensor]:
        raise NotImplementedError

    def blank_vision_inputs(self, processor: Processor) -> dict[str, Tensor]:
        raise NotImplementedError

    def cacheable_features(self, plan: Plan) -> dict[str, set[str]]:
        raise NotImplementedError

    def feature_shapes(self, config: PretrainedConfig, names: set[str]) -> Shapes:
        raise NotImplementedError

    def compute_features(
        self, model: PreTrainedModel, names: set[str], vision_inputs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        raise NotImplementedError

    def finish_images(
        self, model: PreTrainedModel, features: Mapping[str, Tensor]
    ) -> Tensor | Sequence[Tensor]:
        raise NotImplementedError
