"""ViP-LLaVA as a `Family`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import (
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.dtypes import DTYPES
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import (
    CardText,
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
from dsvl_tune.core.storage.files import write_json
from dsvl_tune.core.types import Conversation
from dsvl_tune.families.key_rules import RuleGroup
from vipllava import pixels
from vipllava.parts import PARTS, PRESETS

IMAGE_TOKEN = "<image>"
PIXELS = "pixel_values"

OLD_NAMES = {
    "language_model.lm_head.": "lm_head.",
    "language_model.model.": "model.language_model.",
    "vision_tower.vision_model.": "model.vision_tower.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}

CARD = CardText(
    title="ViP-LLaVA",
    license_front_matter={"license": "llama2"},
    license="As the base.\n",
    use={"transformers": '    AutoModelForImageTextToText.from_pretrained("FOLDER")\n'},
    pixels="transformers' image processor takes the same steps. ",
)


class VipLlava(Family):
    """One layout, one tower with a class token, 16 tokens an image, no system prompt."""

    name = "ViP-LLaVA"
    parts = PARTS
    presets = PRESETS
    card = CARD
    needs_image_size = False

    def recognizes(self, settings: Mapping[str, Any]) -> bool:
        return settings.get("model_type") == "vipllava"

    def layout(self, settings: Mapping[str, Any]) -> Layout:
        return "transformers"

    def read_tokenizer(self, checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast.from_pretrained(checkpoint.folder)

    def read_config(self, checkpoint: Checkpoint) -> PretrainedConfig:
        return VipLlavaConfig.from_dict(copy.deepcopy(dict(checkpoint.settings)))

    def model_class(self, config: PretrainedConfig) -> type[PreTrainedModel]:
        return VipLlavaForConditionalGeneration

    def read_processor(self, checkpoint: Checkpoint) -> Processor:
        config, ids = checkpoint.config, checkpoint.special_ids
        return Processor(
            tokenizer=checkpoint.tokenizer,
            family=self,
            image_settings=config,
            image_token=IMAGE_TOKEN,
            image_token_id=config.image_token_id,
            default_system="",
            bos_id=ids["bos_token_id"],
            eos_id=ids["eos_token_id"],
            pad_id=ids["pad_token_id"],
            context_tokens=config.text_config.max_position_embeddings,
        )

    def tensor_group(self, name: str, config: PretrainedConfig) -> TensorGroup | None:
        return RuleGroup((name,), (name,), "same")

    def unused_tensors(self, config: PretrainedConfig) -> Shapes:
        return {}

    def current_name(self, name: str) -> str:
        """transformers still writes the names of the time before it had a `model.`."""
        for old, new in OLD_NAMES.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    def write_settings(
        self, checkpoint: Checkpoint, target: Path, layout: Layout, dtype: str
    ) -> None:
        if layout == "original":
            raise UserError("ViP-LLaVA has one layout. Write transformers.")
        config = copy.deepcopy(checkpoint.config)
        config.dtype = DTYPES[dtype]
        config.save_pretrained(target)
        GenerationConfig(**checkpoint.special_ids, do_sample=False).save_pretrained(target)
        checkpoint.tokenizer.save_pretrained(target)
        settings = pixels.processor_settings(config.vision_config.image_size)
        write_json(target / "preprocessor_config.json", settings)

    def conversion_notes(self, settings: Mapping[str, Any], absent: int) -> list[str]:
        return []

    def image_cost(self, config: PretrainedConfig, images: int) -> ImageCost:
        size = config.vision_config.image_size
        return ImageCost(visual_tokens(config), {PIXELS: (1, 3, size, size)})

    def render(
        self, conversation: Conversation, processor: Processor, mode: RenderMode
    ) -> list[Segment]:
        turns = conversation.turns
        if mode == "generation" and turns[-1].role == "assistant":
            turns = turns[:-1]
        eos = processor.tokenizer.eos_token
        segments = []
        for number, turn in enumerate(turns):
            if turn.role == "user":
                contents = ["USER: ", *turn.parts, " ASSISTANT:"]
                segments += [Segment(content, turn=number) for content in contents]
            else:
                weight = turn.weight if mode == "training" else 0.0
                segments.append(Segment(f" {turn.text}{eos}", weight=weight, turn=number))
        return segments

    def image_token_ids(
        self, processor: Processor, size: tuple[int, int] | None, images: int
    ) -> list[int]:
        return [processor.image_token_id] * visual_tokens(processor.image_settings)

    def pad_image(self, image: Image, processor: Processor, images: int) -> dict[str, Tensor]:
        return {PIXELS: pixels.levels(image, processor.image_settings.vision_config.image_size)}

    def padded_shapes(self, processor: Processor) -> Shapes:
        return self.image_cost(processor.image_settings, images=1).inputs

    def vision_input(self, padded: Mapping[str, Tensor], processor: Processor) -> dict[str, Tensor]:
        return dict(padded)

    def normalize(
        self, vision_inputs: Mapping[str, Tensor], processor: Processor
    ) -> dict[str, Tensor]:
        return {
            name: pixels.normalize(tensor) if tensor.dtype == torch.uint8 else tensor
            for name, tensor in vision_inputs.items()
        }

    def gray_levels(
        self, vision_inputs: Mapping[str, Tensor], processor: Processor
    ) -> dict[str, Tensor]:
        return {"tower": pixels.denormalize(vision_inputs[PIXELS])}

    def image_digest(self, processor: Processor) -> str:
        return f"CLIP {processor.image_settings.vision_config.image_size}"

    def encode_images(self, model: PreTrainedModel, vision_inputs: Mapping[str, Tensor]) -> Tensor:
        output = model.model.get_image_features(vision_inputs[PIXELS], return_dict=True)
        tokens: Tensor = output.pooler_output
        return tokens

    def forward_inputs(
        self, vision_inputs: Mapping[str, Tensor], image_index: Tensor
    ) -> dict[str, Tensor]:
        return {name: tensor[image_index] for name, tensor in vision_inputs.items()}

    def blank_vision_inputs(self, processor: Processor) -> dict[str, Tensor]:
        (shape,) = self.padded_shapes(processor).values()
        return {PIXELS: pixels.normalize(torch.full(shape, 127, dtype=torch.uint8))}

    def cacheable_features(self, plan: Plan) -> dict[str, set[str]]:
        if plan["tower"].mode != "frozen":
            raise UserError("model.feature_cache: tower trains. Freeze it.")
        if plan["projector"].mode != "frozen":
            return {"layers": {"tower"}}
        return {"projected": {"tower", "projector"}}

    def finishing_parts(self, names: set[str]) -> set[str]:
        return {"projector"} if "layers" in names else set()

    def feature_shapes(self, config: PretrainedConfig, names: set[str]) -> Shapes:
        tokens, layers = visual_tokens(config), len(config.vision_feature_layers)
        shapes: Shapes = {
            "projected": (1, tokens, config.text_config.hidden_size),
            "layers": (1, tokens, layers * config.vision_config.hidden_size),
        }
        return {name: shapes[name] for name in names}

    @torch.no_grad()
    def compute_features(
        self, model: PreTrainedModel, names: set[str], vision_inputs: Mapping[str, Tensor]
    ) -> list[dict[str, Tensor]]:
        if "projected" in names:
            features = {"projected": self.encode_images(model, vision_inputs)}
        else:
            output = model.model.vision_tower(
                vision_inputs[PIXELS], output_hidden_states=True, return_dict=True
            )
            chosen = model.config.vision_feature_layers
            layers = [output.hidden_states[layer][:, 1:] for layer in chosen]
            features = {"layers": torch.cat(layers, dim=-1)}
        images = len(vision_inputs[PIXELS])
        return [{name: x[i : i + 1] for name, x in features.items()} for i in range(images)]

    def finish_images(self, model: PreTrainedModel, features: Mapping[str, Tensor]) -> Tensor:
        if "projected" in features:
            return features["projected"]
        tokens: Tensor = model.model.multi_modal_projector(features["layers"])
        return tokens


def visual_tokens(config: PretrainedConfig) -> int:
    """Patches of an image; the class token is left out."""
    vision = config.vision_config
    return int(vision.image_size // vision.patch_size) ** 2


VIP_LLAVA = VipLlava()
