"""The nouns that travel between the rooms, and the shape legend.

A row of data becomes a `Conversation` (turns of text and image references), the encoder turns it
into a `Sample` (token ids, labels, loss weights, images), and collating turns samples into a
`Batch`. Generation takes `Prompts`.

Shape legend, used in every docstring of the project::

    B  rows in a batch              T  tokens in a row (image tokens counted)
    I  distinct images in a batch   M  image slots in a batch, in reading order (M >= I)
    S  side of a square of pixels   V  visual tokens of an image (576 in DeepSeek-VL)
    D  width of the language model  N  supervised positions in a batch
    C  crops of an image (1 in a family without tiles)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

IGNORE_INDEX = -100
"""Label of a position that is not supervised (the `ignore_index` of torch's cross entropy)."""


@dataclass(frozen=True)
class ImageRef:
    """An image that has not been read yet.

    Attributes:
        content: a file, encoded bytes (PNG, JPEG, ...), an image in memory, or the URL of one
            that may be fetched.
        name: unique name of the image; two references with one name are the same image and
            are encoded once.
    """

    content: Path | bytes | Image | str
    name: str


@dataclass(frozen=True)
class Turn:
    """What one side says: text and images in reading order.

    Attributes:
        role: "user" or "assistant".
        parts: text and images. The text holds no placeholder strings: an image has its own part.
        weight: loss weight of each supervised token. Only assistant turns are supervised; 0 leaves
            the turn unsupervised.
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
        turns: at least one user turn.
        source: file and row, or seed: named in every error about this conversation.
        system: the system prompt; None takes the checkpoint's default, "" has none.
        question_type: for metrics per type ("" without types).
        references: every accepted answer to the last question; () accepts the last assistant turn
            alone. What is trained on is always the assistant turn.
        scoring: what else of the row scoring may need: the names of its own metrics under `metric`,
            the `options` of a choice, ...
        mixture_source: name of its source in a mixture; "" outside of one.
    """

    turns: tuple[Turn, ...]
    source: str
    system: str | None = None
    question_type: str = ""
    references: tuple[str, ...] = ()
    scoring: Mapping[str, Any] = field(default_factory=dict)
    mixture_source: str = ""

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


@dataclass
class EncodedImage:
    """One image as it travels to the model.

    Attributes:
        name: of the `ImageRef`.
        tokens: token ids that it occupies in a row, marks and separators included.
        tensors: by the names that the family gives them, each [C, ...], so a batch is their
            concatenation by name.
    """

    name: str
    tokens: int
    tensors: dict[str, Tensor]

    @property
    def identity(self) -> tuple[str, int]:
        """Equal for images that are encoded once: an image may be cut in more than one way."""
        return self.name, self.tokens


@dataclass
class VisionInput(EncodedImage):
    """An image whose tensors go into the vision side.

    uint8 tensors are levels that are normalized on the device (`Family.normalize`).

    Attributes:
        cache_key: where its features go in the feature cache; "" if nowhere.
    """

    cache_key: str = ""


@dataclass
class CachedFeatures(EncodedImage):
    """An image whose tensors are features from the feature cache (`Family.compute_features`)."""


@dataclass
class Sample:
    """One row: a conversation, a message tree, or a packed row of several of either.

    A message tree holds conversations that share an image prefix.

    Attributes:
        input_ids: [T], with the token ids of each image in its place.
        labels: [T], the token itself where it is supervised, else IGNORE_INDEX. As in transformers,
            the loss pairs hidden state t - 1 with label t. The first token of a branch is never
            supervised.
        loss_weights: [T], float.
        position_ids: [T], as if each conversation were alone.
        segment_ids: [T], which member of a packed row, from 0. A member is a conversation or a
            tree; members do not attend to each other.
        branch_ids: [T], 0 in a shared prefix, k in the k-th conversation of its tree. A token
            attends to the tokens before it of its segment that have branch 0 or its own branch.
            A conversation without a tree has 0 everywhere.
        images: one per image slot, in reading order.
        image_spans: of each image slot, where its token ids begin and end: [start, stop).
        sources: of each conversation in the row.
        mixture_sources: of each member of the row, see `Conversation`; the conversations of a tree
            have the same one.
    """

    input_ids: list[int]
    labels: list[int]
    loss_weights: list[float]
    position_ids: list[int]
    segment_ids: list[int]
    branch_ids: list[int]
    images: list[EncodedImage]
    image_spans: list[tuple[int, int]]
    sources: list[str] = field(default_factory=list)
    mixture_sources: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class VisionBatch:
    """The images of a batch: those with vision inputs first, then those with cached features.

    Attributes:
        vision_inputs: by name, each the concatenation of `VisionInput.tensors` ({} without any).
        image_index: [M] int64, which of the I images fills the m-th slot.
        features: by name, each the concatenation of `CachedFeatures.tensors` ({} without any).
        feature_keys: cache keys of the images with vision inputs; [] where there is no cache.
    """

    vision_inputs: dict[str, Tensor]
    image_index: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    feature_keys: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Distinct images that slots show (I)."""
        return int(self.image_index.max()) + 1 if len(self.image_index) else 0

    def pin_memory(self: Any) -> Any:
        """A copy in page-locked memory, which a GPU reads asynchronously; the loader calls it."""
        # Imported here because this module is read before torch is.
        from torch.utils.data._utils.pin_memory import pin_memory

        return replace(self, **pin_memory(dict(vars(self))))


@dataclass(kw_only=True)
class Batch(VisionBatch):
    """What a training step takes, right-padded.

    Padding has segment, branch and mixture id -1, label IGNORE_INDEX, weight 0 and position 0.

    Attributes:
        input_ids: [B, T] int64.
        labels: [B, T] int64, as in `Sample`.
        loss_weights: [B, T] float32.
        position_ids: [B, T] int64.
        segment_ids: [B, T] int64.
        branch_ids: [B, T] int64.
        sources: of every conversation in the batch, for error messages.
        mixture_sources: names of all sources of the mixture, also of those without a row in this
            batch; [] outside of a mixture.
        mixture_ids: [B, T] int64, the place in `mixture_sources` of each token's conversation;
            None outside of a mixture.
    """

    input_ids: Tensor
    labels: Tensor
    loss_weights: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    branch_ids: Tensor
    sources: list[str]
    mixture_sources: list[str] = field(default_factory=list)
    mixture_ids: Tensor | None = None


@dataclass(kw_only=True)
class Texts(Batch):
    """Windows of a text, which a model reads to be scored on every token but the first.

    Attributes:
        numbers: position of each window in the text; processes share a text, and may read its
            first windows twice to have equally many.
    """

    numbers: list[int]


@dataclass(kw_only=True)
class Prompts(VisionBatch):
    """What generation takes: left-padded prompts that end where the answer begins.

    Attributes:
        input_ids: [B, T] int64.
        attention_mask: [B, T] int64, 0 on padding.
        references: accepted answers of each prompt; [] for a question without one.
        question_types: of each prompt ("" without types).
        questions: text of each question.
        sources: file and row of each prompt.
        image_counts: image slots of each prompt.
        numbers: position of each prompt in the set that is answered; processes share a set, and may
            answer its first prompts twice to have equally many.
        scoring: what else of the row of each prompt scoring may need, see `Conversation`.
        image_names: names of the images of each prompt, in reading order.
    """

    input_ids: Tensor
    attention_mask: Tensor
    image_counts: list[int]
    references: list[list[str]]
    question_types: list[str]
    questions: list[str]
    sources: list[str]
    numbers: list[int]
    scoring: list[Mapping[str, Any]] = field(default_factory=list)
    image_names: list[list[str]] = field(default_factory=list)
