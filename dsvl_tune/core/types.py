"""The nouns that travel between the rooms, and the shape legend.

A row of data becomes a `Conversation` (turns of text and image references), the encoder makes a `Sample` of it
(token ids, labels, loss weights, pixels), and collating makes a `Batch` of samples. Generation eats `Prompts`.

Shape legend, used in every docstring of the project::

    B  rows in a batch              T  tokens in a row (image tokens counted)
    I  distinct images in a batch   M  image slots in a batch, in reading order (M >= I)
    S  side of an image in pixels   V  visual tokens an image has (576 in the published models)
    D  width of the language model  N  supervised positions in a batch
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

IGNORE_INDEX = -100
"""Label of a position that is not supervised (the `ignore_index` of torch's cross entropy)."""


@dataclass(frozen=True)
class ImageRef:
    """An image that has not been read yet.

    Attributes:
        content: a file, encoded bytes (PNG, JPEG, ...), a picture in memory, or the URL of one that may be fetched.
        name: unique name of the picture; two references with one name are the same picture and are encoded once.
    """

    content: Path | bytes | Image | str
    name: str


@dataclass(frozen=True)
class Turn:
    """What one side says: text and images in reading order.

    Attributes:
        role: "user" or "assistant".
        parts: text and images; the text holds no placeholder strings, images stand for themselves.
        weight: loss weight of each supervised token (only assistant turns are supervised); 0 leaves the turn unsupervised.
    """

    role: Literal["user", "assistant"]
    parts: tuple[str | ImageRef, ...]
    weight: float = 1.0

    @property
    def text(self) -> str:
        """The text parts joined, without outer white space."""
        return "".join(part for part in self.parts if isinstance(part, str)).strip()


@dataclass(frozen=True)
class Conversation:
    """Alternating turns, the first of the user.

    Attributes:
        turns: at least one user turn. source: file and row, or seed: named in every error about this conversation.
        system: the system prompt; None takes the checkpoint's default, "" has none.
        question_type: question type, for metrics per type ("" without types).
        references: every accepted answer to the last question; () accepts the last assistant turn alone. What is
            trained on is always the assistant turn.
    """

    turns: tuple[Turn, ...]
    source: str
    system: str | None = None
    question_type: str = ""
    references: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """Text of the last user turn."""
        return next(turn.text for turn in reversed(self.turns) if turn.role == "user")

    @property
    def accepted_answers(self) -> tuple[str, ...]:
        """`references`, else the last assistant turn; () for a question that has no answer."""
        last = self.turns[-1]
        if last.role != "assistant":
            return ()
        return self.references or ((last.text,) if last.text else ())

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """Every image in reading order."""
        return tuple(
            part for turn in self.turns for part in turn.parts if isinstance(part, ImageRef)
        )


@dataclass(frozen=True)
class Branch:
    """Pixels of one vision branch: resized to `size` px square, scaled to 0..1, then (x - mean) / std per channel."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class ImageRule:
    """How a picture becomes pixels (DeepSeek-VL: deepseek_vl/models/image_processing_vlm.py, VLMImageProcessor).

    The longest side becomes `size`, the other is truncated to a whole pixel (at least `min_size`), the rest of the
    square is `background`. `high` and `low` are made from that square.

    Attributes:
        size: side of the padded square in px (the largest branch's size). background: padding colour, RGB 0..255.
        low: the SigLIP branch. high: the SAM branch; None in the SigLIP-only family.
    """

    size: int
    background: tuple[int, int, int]
    low: Branch
    high: Branch | None
    min_size: int = 14


class Store(Protocol):
    """Tensors made of an image, by a key of its content: `tensor_store.TensorCache`."""

    def has(self, key: str) -> bool: ...
    def get(self, key: str) -> dict[str, Tensor] | None: ...
    def put(self, key: str, tensors: dict[str, Tensor]) -> bool: ...


@dataclass(frozen=True)
class Processor:
    """All that turning a conversation into tokens and pixels needs to know of a checkpoint."""

    tokenizer: PreTrainedTokenizerFast
    image_rule: ImageRule
    image_token: str
    image_token_id: int
    image_tokens: int
    """Visual tokens an image occupies (V)."""
    default_system: str
    bos_id: int
    eos_id: int
    pad_id: int
    context_tokens: int
    """Longest row the checkpoint supports."""
    features: Store | None = None
    squares: Store | None = None
    compact: bool = False
    """Where features and padded squares are kept; whether the larger branch stays uint8, to be normalised later."""


@dataclass
class Pixels:
    """One preprocessed image. `low` [3, S_low, S_low] and `high` [3, S_high, S_high] or None, float32, normalised.

    On the way from a worker the larger is uint8 (`Processor.compact`). `key` is where its features go, "" if nowhere.
    """

    name: str
    low: Tensor
    high: Tensor | None
    key: str = ""


@dataclass
class Features:
    """One image whose features were stored: each tensor by name, as in `models.vision`."""

    name: str
    tensors: dict[str, Tensor]


@dataclass
class Sample:
    """One row: a conversation, several that share an image prefix (a message tree), or several of either (packed).

    Attributes:
        input_ids: [T], image tokens expanded to V each.
        labels: [T], the token itself where it is supervised, else IGNORE_INDEX (as in transformers: the loss pairs hidden
            state t - 1 with label t). A supervised token is never the first of its branch.
        loss_weights: [T] float. position_ids: [T], as if each conversation stood alone.
        segments: [T], which member of a packed row, from 0; a member is a conversation or a tree. Members do not see
            each other.
        branches: [T], 0 in a shared prefix, k in the k-th conversation of its tree. A token sees the tokens before it
            of its segment that have branch 0 or its own branch. A conversation without a tree has 0 everywhere.
        images: in reading order, one per image slot. sources: of each conversation in the row.
    """

    input_ids: list[int]
    labels: list[int]
    loss_weights: list[float]
    position_ids: list[int]
    segments: list[int]
    branches: list[int]
    images: list[Pixels | Features]
    sources: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Shown:
    """What the image slots of a batch show: images with pixels, then images whose features were stored.

    Attributes:
        pixel_values, high_res_pixel_values: [I, 3, S, S] float32 or None; the larger is uint8 until on the device.
        features: each tensor [I, ...] by name, or None. feature_keys: where those of the images with pixels will go.
        image_index: [M] int64, which image fills the m-th slot, those with pixels counted first.
    """

    pixel_values: Tensor | None
    high_res_pixel_values: Tensor | None
    image_index: Tensor
    features: dict[str, Tensor] | None = None
    feature_keys: list[str] = field(default_factory=list)

    def pin_memory(self: Any) -> Any:
        """The same in memory from which a GPU copies without waiting; the loader asks for it."""
        from torch.utils.data._utils.pin_memory import (
            pin_memory,
        )  # not above: this file is read before torch is

        return replace(self, **pin_memory(dict(vars(self))))


@dataclass(kw_only=True)
class Batch(Shown):
    """What a training step eats. Right-padded; padding has segment and branch -1, label IGNORE_INDEX, position 0.

    Attributes:
        input_ids, labels, position_ids, segments, branches: [B, T] int64, as in `Sample`. loss_weights: [B, T] float32.
        sources: of every conversation in the batch, for error messages.
    """

    input_ids: Tensor
    labels: Tensor
    loss_weights: Tensor
    position_ids: Tensor
    segments: Tensor
    branches: Tensor
    sources: list[str]


@dataclass(kw_only=True)
class Prompts(Shown):
    """What generation eats: left-padded prompts that end in "Assistant:", and what was expected of each.

    Attributes:
        input_ids, attention_mask: [B, T] int64.
        references: accepted answers of each prompt; [] for a question without one.
        question_types: question type of each prompt.
        questions: text of each question.
        sources: file and row of each prompt.
        numbers: position of each prompt in the set that is answered; processes share a set, and may answer its first
            prompts twice to have equally many.
    """

    input_ids: Tensor
    attention_mask: Tensor
    references: list[list[str]]
    question_types: list[str]
    questions: list[str]
    sources: list[str]
    numbers: list[int]
