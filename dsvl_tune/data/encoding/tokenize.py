"""From a conversation to token ids, labels, loss weights and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor, RenderMode
from dsvl_tune.core.types import IGNORE_INDEX, Conversation, EncodedImage, ImageRef, Sample, Turn
from dsvl_tune.data.images.load import image_size
from dsvl_tune.data.images.loader import ImageLoader

OnOverflow = Literal["error", "truncate"]


@dataclass
class Tokens:
    """A conversation as tokens, its images not loaded yet.

    Attributes:
        input_ids: [T] with BOS, and the token ids of each image in its place.
        labels: [T], as in `Sample`.
        loss_weights: [T].
        images: one reference per image slot.
        image_spans: of each image slot, as in `Sample`.
    """

    input_ids: list[int]
    labels: list[int]
    loss_weights: list[float]
    images: list[ImageRef] = field(default_factory=list)
    image_spans: list[tuple[int, int]] = field(default_factory=list)

    @property
    def image_tokens(self) -> int:
        """Token ids that images occupy."""
        return sum(stop - start for start, stop in self.image_spans)


@dataclass
class EncodedPrompt:
    """A prompt that ends where the answer begins, and what is expected of it.

    Attributes:
        input_ids: [T].
        images: one per image slot, in reading order.
        references: every accepted answer; () if there is none.
        scoring: what else of the row scoring may need, see `Conversation`.
        question_type: "" without types.
        question: text of the last user turn.
        source: file and row.
    """

    input_ids: list[int]
    images: list[EncodedImage]
    references: tuple[str, ...]
    scoring: Mapping[str, Any]
    question_type: str
    question: str
    source: str


def encode(
    conversation: Conversation,
    processor: Processor,
    mode: RenderMode = "training",
    max_tokens: int | None = None,
    on_overflow: OnOverflow = "error",
    loader: ImageLoader | None = None,
) -> Sample:
    """One conversation as a row.

    Args:
        conversation: what to encode.
        processor: of the checkpoint.
        mode: see `Family.render`.
        max_tokens: longest row allowed, image tokens counted; None takes the checkpoint's context.
        on_overflow: what happens to a longer one, see `tokenize`.
        loader: of the images. Rows encoded with one loader share them; None has no caches.

    Raises:
        UserError: as `tokenize` and `load_image`.
    """
    tokens = tokenize(conversation, processor, mode, max_tokens, on_overflow)
    length = len(tokens.input_ids)
    return Sample(
        input_ids=tokens.input_ids,
        labels=tokens.labels,
        loss_weights=tokens.loss_weights,
        position_ids=list(range(length)),
        segment_ids=[0] * length,
        branch_ids=[0] * length,
        images=load_images(tokens, processor, loader, conversation.source),
        image_spans=tokens.image_spans,
        sources=[conversation.source],
        mixture_sources=[conversation.mixture_source],
    )


def encode_prompt(
    conversation: Conversation,
    processor: Processor,
    max_tokens: int | None = None,
    on_overflow: OnOverflow = "error",
    loader: ImageLoader | None = None,
) -> EncodedPrompt:
    """The prompt up to the answer to the last question, with the accepted answers.

    Truncating drops whole pairs only, and the last question that is left is the one asked. A
    reference that belongs to a dropped question is dropped, too.

    Args:
        conversation: with or without an answer to its last question.
        processor: of the checkpoint.
        max_tokens: as in `encode`.
        on_overflow: as in `encode`.
        loader: as in `encode`.

    Raises:
        UserError: as `encode`.
    """
    limit = processor.context_tokens if max_tokens is None else max_tokens
    tokenized = TokenizedConversation(conversation, processor, "generation")
    kept = len(conversation.turns)
    if on_overflow == "truncate":
        kept = tokenized.turns_that_fit(limit)
    tokens = tokenized.join(kept)
    check_length(tokens, limit, conversation.source, processor)
    if kept < len(conversation.turns):
        conversation = replace(conversation, turns=conversation.turns[:kept], references=())
    return EncodedPrompt(
        input_ids=tokens.input_ids,
        images=load_images(tokens, processor, loader, conversation.source),
        references=conversation.accepted_answers,
        scoring=conversation.scoring,
        question_type=conversation.question_type,
        question=conversation.question,
        source=conversation.source,
    )


def tokenize(
    conversation: Conversation,
    processor: Processor,
    mode: RenderMode = "training",
    max_tokens: int | None = None,
    on_overflow: OnOverflow = "error",
) -> Tokens:
    """The conversation as tokens; reads no image beyond its header.

    With `on_overflow="truncate"` a conversation that is too long loses its last pairs of question
    and answer, images included. If one pair alone is too long, it loses the end of its answer and
    with it the end token. A question or an image is never cut, and at least one supervised token
    stays.

    Args:
        conversation: what to tokenize.
        processor: of the checkpoint.
        mode: see `Family.render`.
        max_tokens: longest row allowed; None takes the checkpoint's context.
        on_overflow: "error" or "truncate".

    Raises:
        UserError: the conversation cannot be rendered, or is too long and may not or cannot be cut.
    """
    limit = processor.context_tokens if max_tokens is None else max_tokens
    tokenized = TokenizedConversation(conversation, processor, mode)
    if on_overflow == "truncate":
        tokens = tokenized.join(tokenized.turns_that_fit(limit))
        return cut_answer(tokens, limit, conversation.source)
    tokens = tokenized.join(len(conversation.turns))
    check_length(tokens, limit, conversation.source, processor)
    return tokens


class TokenizedConversation:
    """A conversation whose segments are tokenized once, for every number of turns that may be kept.

    Args:
        conversation: what to render.
        processor: of the checkpoint.
        mode: see `Family.render`.

    Raises:
        UserError: the conversation cannot be rendered.
    """

    def __init__(self, conversation: Conversation, processor: Processor, mode: RenderMode) -> None:
        self.turns = conversation.turns
        self.processor = processor
        self.mode = mode
        self.segments = processor.family.render(conversation, processor, mode)
        self.text_ids: list[list[int]] = []
        self.images: list[ImageRef] = []
        self.image_sizes: dict[str, tuple[int, int]] = {}
        self.image_lengths: dict[int, int] = {}  # of the first images, by their number
        # Of the first k turns: text tokens (BOS included), and images.
        self.text_lengths = [1] + [0] * len(self.turns)
        self.image_counts = [0] * (len(self.turns) + 1)
        for segment in self.segments:
            ids: list[int] = []
            if isinstance(segment.content, str):
                ids = token_ids(processor.tokenizer, segment.content)
            else:
                self._add_image(segment.content, conversation.source)
                self.image_counts[segment.turn + 1] += 1
            self.text_ids.append(ids)
            self.text_lengths[segment.turn + 1] += len(ids)
        self.text_lengths = list(accumulate(self.text_lengths))
        self.image_counts = list(accumulate(self.image_counts))

    def _add_image(self, ref: ImageRef, source: str) -> None:
        self.images.append(ref)
        if self.processor.family.needs_image_size and ref.name not in self.image_sizes:
            self.image_sizes[ref.name] = image_size(ref, source)

    def turns_that_fit(self, limit: int) -> int:
        """How many turns to keep so that the row has at most `limit` tokens.

        Pairs of question and answer are dropped from the end: as few as possible, and in training
        never the last supervised answer. One pair is always kept.
        """
        kept = len(self.turns)
        while kept > 2 and self.length(kept) > limit:
            fewer = kept - 2 if self.turns[kept - 1].role == "assistant" else kept - 1
            if self.mode == "training" and not any(map(is_supervised, self.turns[:fewer])):
                break
            kept = fewer
        return kept

    def shown(self, kept: int) -> int:
        """How many of the kept turns are in the row: for generation not the last answer."""
        answered = self.turns[kept - 1].role == "assistant"
        return kept - 1 if self.mode == "generation" and answered else kept

    def length(self, kept: int) -> int:
        """Tokens of the row if `kept` turns are kept."""
        shown = self.shown(kept)
        return self.text_lengths[shown] + self._image_tokens(self.image_counts[shown])

    def _image_tokens(self, count: int) -> int:
        """Tokens of the first `count` images in a row that shows only these."""
        if count not in self.image_lengths:
            lengths = [len(self._image_ids(ref, count)) for ref in self.images[:count]]
            self.image_lengths[count] = sum(lengths)
        return self.image_lengths[count]

    def _image_ids(self, ref: ImageRef, count: int) -> list[int]:
        """The token ids of an image in a row that shows `count`."""
        size = self.image_sizes.get(ref.name)
        return self.processor.family.image_token_ids(self.processor, size, count)

    def join(self, kept: int) -> Tokens:
        """The first `kept` turns as tokens, after one BOS."""
        shown = self.shown(kept)
        tokens = Tokens([self.processor.bos_id], [IGNORE_INDEX], [0.0])
        for segment, ids in zip(self.segments, self.text_ids, strict=True):
            if segment.turn >= shown:
                break
            if isinstance(segment.content, ImageRef):
                ids = self._image_ids(segment.content, self.image_counts[shown])
                start = len(tokens.input_ids)
                tokens.images.append(segment.content)
                tokens.image_spans.append((start, start + len(ids)))
            tokens.input_ids += ids
            tokens.labels += ids if segment.supervised else [IGNORE_INDEX] * len(ids)
            tokens.loss_weights += [segment.weight] * len(ids)
        return tokens


def is_supervised(turn: Turn) -> bool:
    """Whether a turn is trained on."""
    return turn.role == "assistant" and turn.weight > 0


def check_length(tokens: Tokens, limit: int, source: str, processor: Processor) -> None:
    """Raise if a row is too long."""
    if len(tokens.input_ids) > limit:
        lengths = enumerate(image_lengths(tokens, processor), start=1)
        each = "; ".join(f"image {number}: {length}" for number, length in lengths)
        images = f"{tokens.image_tokens} of them for images" + (f" ({each})" if each else "")
        cut = "lower max_tiles, " if " tiles" in each else ""
        raise UserError(
            f"{source}: {len(tokens.input_ids)} tokens, {images}, but the limit is {limit}. "
            f"Shorten the row, {cut}raise max_tokens, or set on_overflow: truncate."
        )


def image_lengths(tokens: Tokens, processor: Processor) -> list[str]:
    """The tokens of each image slot in words, with its tiles if the family cuts images."""
    found = []
    for start, stop in tokens.image_spans:
        label = processor.family.tiles_label(processor, stop - start)
        found.append(f"{stop - start} tokens" + (f", {label}" if label else ""))
    return found


def cut_answer(tokens: Tokens, limit: int, source: str) -> Tokens:
    """At most the first `limit` tokens.

    A row that is still too long after `turns_that_fit` has one supervised answer, at its end, so
    every image comes before the cut.

    Raises:
        UserError: no supervised token would be left.
    """
    if len(tokens.input_ids) <= limit:
        return tokens
    if not any(tokens.loss_weights[:limit]):
        prompt = next(
            (place for place, weight in enumerate(tokens.loss_weights) if weight),
            len(tokens.input_ids),
        )
        raise UserError(
            f"{source}: {prompt} tokens come before the first supervised one, but the limit is "
            f"{limit}, and neither questions nor images are cut. Shorten the question, show fewer "
            "images, or raise max_tokens."
        )
    return Tokens(
        tokens.input_ids[:limit],
        tokens.labels[:limit],
        tokens.loss_weights[:limit],
        tokens.images,
        tokens.image_spans,
    )


@lru_cache(maxsize=10_000)
def token_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Tokens of a segment, not to be modified: many rows repeat a prompt, question or answer."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def load_images(
    tokens: Tokens, processor: Processor, loader: ImageLoader | None, source: str
) -> list[EncodedImage]:
    """The image of each slot; every distinct one is loaded once."""
    loader = loader or ImageLoader()
    images = []
    for ref, (start, stop) in zip(tokens.images, tokens.image_spans, strict=True):
        image = loader.load(
            ref, processor, tokens=stop - start, images=len(tokens.images), source=source
        )
        images.append(image)
    return images
