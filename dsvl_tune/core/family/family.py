"""What a model family answers: everything that data, models, training and export ask of it.

A family is one object in a folder of its own (`families/deepseek_vl/family.py`) and one line in
`families.FAMILIES`. Nothing outside `families/` knows a vision tower, a tensor name or a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family.card_text import CardText
from dsvl_tune.core.family.layouts import Layout, TensorGroup
from dsvl_tune.core.family.parts import Parts, Plan
from dsvl_tune.core.family.processor import Processor
from dsvl_tune.core.family.prompt import RenderMode, Segment
from dsvl_tune.core.types import Conversation

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from dsvl_tune.core.checkpoint import Checkpoint

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ImageCost:
    """What one image of the costliest size takes in a training step.

    Attributes:
        tokens: that it occupies in a row.
        inputs: shape of each of its vision inputs (float32), crops first.
        values: of vision inputs whose values decide shapes, e.g. the grid of an image's tiles:
            nested lists of numbers, which the estimate has no other way to know.
    """

    tokens: int
    inputs: Shapes
    values: Mapping[str, list[list[int]]] = field(default_factory=dict)


class Family(Protocol):
    """A model family: checkpoints, tensors, files, parts, prompt, images, cached features."""

    name: str
    """For messages and model cards, e.g. "DeepSeek-VL"."""

    parts: Parts
    """Model parts by name, in the order in which tables show them."""

    presets: Mapping[str, Plan]
    """Plans by name; parts that a plan does not name are frozen."""

    card: CardText

    pickled_originals: bool = False
    """Whether published checkpoints in the original layout have weights that torch.save wrote. Only
    then are such files read, and only where there are no safetensors."""

    # Checkpoints. What is read of one is kept by the `Checkpoint` itself.

    def recognizes(self, settings: Mapping[str, Any]) -> bool:
        """Whether a config.json, in either layout, is of this family."""

    def relative(self, settings: Mapping[str, Any]) -> str | None:
        """The name of another model whose config.json looks like this family's; None for others.

        It is refused by that name.
        """
        return None

    def layout(self, settings: Mapping[str, Any]) -> Layout:
        """The layout of a checkpoint with this config.json."""

    def read_tokenizer(self, checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
        """The tokenizer, with every token that a prompt of the family needs.

        Raises:
            UserError: its files are missing or damaged.
        """

    def read_config(self, checkpoint: Checkpoint) -> PretrainedConfig:
        """The configuration in transformers' terms, from either layout.

        Raises:
            UserError: config.json does not describe a model of this family.
        """

    def model_class(self, config: PretrainedConfig) -> type[PreTrainedModel]:
        """The transformers class that a configuration builds, with every tensor of the files."""

    def loaded_class(self, config: PretrainedConfig) -> type[PreTrainedModel]:
        """The class that is trained and asked: that of `model_class`, less its carried parts."""
        return self.model_class(config)

    def read_processor(self, checkpoint: Checkpoint) -> Processor:
        """Everything that turning a conversation into tokens and vision inputs needs.

        Raises:
            UserError: a file is missing or contradicts another.
        """

    # Tensors of the two layouts.

    def tensor_group(self, name: str, config: PretrainedConfig) -> TensorGroup | None:
        """The group of a tensor's name in transformers' layout; None if there is no such tensor."""

    def unused_tensors(self, config: PretrainedConfig) -> Shapes:
        """Tensors of the original layout that transformers has no place for.

        They are kept in a side file and written back when a checkpoint returns to the original
        layout.
        """

    def current_name(self, name: str) -> str:
        """A tensor's name as current transformers has it, from the name in a file."""

    def written_name(self, name: str) -> str:
        """The name that a tensor gets in a file, from its name in current transformers.

        A family overrides this where earlier releases of transformers have other names, which the
        current one reads as well.
        """
        return name

    # Files next to the weights of a written checkpoint.

    def write_settings(
        self, checkpoint: Checkpoint, target: Path, layout: Layout, dtype: str
    ) -> None:
        """Write configuration, tokenizer, chat template and image settings.

        Args:
            checkpoint: the base, which never was in `layout`'s original form if that is "original".
            target: folder with the weights.
            layout: that the weights were written in.
            dtype: of most of the weights ("float32", "bfloat16" or "float16").

        Raises:
            UserError: the layout cannot express a setting.
        """

    def complete_settings(self, checkpoint: Checkpoint, target: Path) -> None:
        """Add what the files of an original checkpoint do not say, after they were copied.

        Args:
            checkpoint: the base, in the original layout or made from a checkpoint that was.
            target: folder with the weights and those files.
        """
        return

    def conversion_notes(self, settings: Mapping[str, Any], absent: int) -> list[str]:
        """What the reader of a checkpoint in the original layout has to know.

        Args:
            settings: its config.json.
            absent: how many of `unused_tensors` the checkpoint lacks.
        """

    # Memory estimate, from the configuration alone.

    def image_cost(self, config: PretrainedConfig, images: int) -> ImageCost:
        """What one of `images` images of a row takes at most."""

    # Prompt.

    def render(
        self, conversation: Conversation, processor: Processor, mode: RenderMode
    ) -> list[Segment]:
        """The prompt without BOS, in segments that are supervised or not.

        Raises:
            UserError: turns, text or images that the prompt has no form for.
        """

    # Images. Vision inputs and features are tensors by name, each [C, ...] of an image with C crops
    # (1 in a family without tiles), so a batch is their concatenation. From image to model:
    # `pad_image`, `vision_input` (in a worker), `normalize`, `encode_images` (on the device).

    needs_image_size: bool
    """Whether `image_token_ids` depends on the size of the image."""

    def image_token_ids(
        self, processor: Processor, size: tuple[int, int] | None, images: int
    ) -> list[int]:
        """The token ids that one image occupies in a row, marks and separators included.

        The ids equal to `processor.image_token_id` are the places of its visual tokens. Their
        number and the image determine the vision inputs.

        Args:
            processor: of the checkpoint.
            size: (width, height) of the image in px; None where `needs_image_size` is false.
            images: number of images in the conversation.
        """

    def tiles_label(self, processor: Processor, tokens: int) -> str:
        """The tiles of an image of so many tokens, e.g. "2 x 2 tiles"; "" in a family without."""
        return ""

    def tile_grid(self, processor: Processor, tokens: int) -> tuple[int, int]:
        """The tiles (wide, high) that an image of so many tokens is cut into.

        Its crops are the whole image, then the tiles row by row; (1, 1) if it is not cut.
        """
        return 1, 1

    def limit_tiles(self, processor: Processor, most: int) -> Processor:
        """A processor that cuts no image into more than so many tiles.

        Raises:
            UserError: the family cuts no images, or not into so few.
        """
        raise self.no_tiles()

    def limit_config(self, config: PretrainedConfig, most: int) -> PretrainedConfig:
        """The configuration of a processor from `limit_tiles`, for a memory estimate.

        Raises:
            UserError: as `limit_tiles`.
        """
        raise self.no_tiles()

    def no_tiles(self) -> UserError:
        """The error for a limit on tiles where there are none."""
        return UserError(
            f"data.max_tiles: {self.name} does not cut images into tiles. Leave it out."
        )

    def pad_image(self, image: Image, processor: Processor, images: int) -> dict[str, Tensor]:
        """One image resized, padded and cut: the expensive step, whose result can be cached.

        Args:
            image: RGB.
            processor: of the checkpoint.
            images: number of images in the conversation.

        Returns:
            By name [C, ...] uint8, in the shapes of `padded_shapes`.
        """

    def padded_shapes(self, processor: Processor) -> Shapes:
        """Shape of what `pad_image` returns; with more than one number of crops, of the most."""

    def vision_input(self, padded: Mapping[str, Tensor], processor: Processor) -> dict[str, Tensor]:
        """The vision inputs of a padded image, for the transfer to the device.

        Args:
            padded: from `pad_image`.
            processor: of the checkpoint.

        Returns:
            By name [C, ...]. What is large stays uint8, a quarter of the bytes of float32.
        """

    def normalize(
        self, vision_inputs: Mapping[str, Tensor], processor: Processor
    ) -> dict[str, Tensor]:
        """Vision inputs as the model takes them: uint8 is normalized on the device where it is.

        Args:
            vision_inputs: by name [C, ...], from `vision_input`, of one image or of a batch.
            processor: of the checkpoint.

        Returns:
            By name, same shapes, float32.
        """

    def gray_levels(
        self, vision_inputs: Mapping[str, Tensor], processor: Processor
    ) -> dict[str, Tensor]:
        """Normalized vision inputs as levels again, to look at or to compare.

        Args:
            vision_inputs: by name [C, ...] float32.
            processor: of the checkpoint.

        Returns:
            By the name of the vision tower [C, 3, S, S] float32 in 0..255.
        """

    def image_digest(self, processor: Processor) -> str:
        """Changes whenever an image would become other vision inputs: of settings and code."""

    def encode_images(
        self, model: PreTrainedModel, vision_inputs: Mapping[str, Tensor]
    ) -> Tensor | Sequence[Tensor]:
        """The visual tokens of every image.

        Args:
            model: a complete model.
            vision_inputs: of a batch, by name [sum of C, ...], normalized.

        Returns:
            [I, V, D], or one [V_i, D] for each image, in the model's dtype.
        """

    def forward_inputs(
        self, vision_inputs: Mapping[str, Tensor], image_index: Tensor
    ) -> dict[str, Tensor]:
        """Arguments of the plain model's `forward` and `generate` for the image slots of a batch.

        Args:
            vision_inputs: of the distinct images of a batch, by name [sum of C, ...], normalized.
            image_index: [M] int64, which image fills the m-th slot.
        """

    def blank_vision_inputs(self, processor: Processor) -> dict[str, Tensor]:
        """The vision inputs of a blank image, by name [C, ...] float32, normalized, on the CPU."""

    def blankable_inputs(self, processor: Processor) -> Mapping[str, frozenset[str]]:
        """What of an image can be blanked -> the vision inputs whose pixels become zeros.

        Normalized, zeros are the pixels of a blank image. "image" blanks all of it; a model with
        several vision towers has the name of each, too.
        """
        return {"image": frozenset(self.blank_vision_inputs(processor))}

    # Mixtures of experts.

    def routers(self, model: PreTrainedModel) -> list[nn.Module]:
        """The routers of a model's layers, in order; [] without experts.

        The forward of each returns scores of all experts [N, E], the numbers of the chosen ones
        [N, k] and their weights [N, k].
        """
        return []

    # Cached features: what the frozen beginning of the vision side computes of an image, once.

    def cacheable_features(self, plan: Plan) -> dict[str, set[str]]:
        """Names of the tensors up to which everything is frozen -> the parts that compute each.

        The only place that decides what a feature cache can keep: `cache-features`, `fit` and
        `estimate-memory` ask it.

        Args:
            plan: one entry for each part that the model has.

        Raises:
            UserError: a vision tower trains, so an image's features change with every step.
        """

    def finishing_parts(self, names: set[str]) -> set[str]:
        """The parts that `finish_images` uses: they stay in memory when the towers do not."""

    def feature_shapes(self, config: PretrainedConfig, names: set[str]) -> Shapes:
        """Shape [C, ...] of each cached tensor of one image; the most crops if numbers differ."""

    def compute_features(
        self, model: PreTrainedModel, names: set[str], vision_inputs: Mapping[str, Tensor]
    ) -> list[dict[str, Tensor]]:
        """The tensors to cache of each image, without gradient.

        Args:
            model: a complete model.
            names: from `cacheable_features`.
            vision_inputs: of a batch, by name [sum of C, ...], normalized.

        Returns:
            Of each image, by name [C, ...] in the model's dtype.
        """

    def finish_images(
        self, model: PreTrainedModel, features: Mapping[str, Tensor]
    ) -> Tensor | Sequence[Tensor]:
        """The visual tokens from cached features, with the gradient of what trains after them.

        Args:
            model: whose `finishing_parts` have weights.
            features: of a batch, by name [sum of C, ...] in the model's dtype.

        Returns:
            As `encode_images`.
        """
