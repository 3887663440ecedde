"""From a conversation to token ids, labels, loss weights and pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from transformers import PreTrainedTokenizerFast

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import IGNORE_INDEX, Conversation, ImageRef, Processor, Sample
from dsvl_tune.data.images.lookup import EncodedImage, load_vision_input
from dsvl_tune.families.deepseek_vl.prompt import Form, Segment, render

OnOverflow = Literal["error", "truncate"]


@dataclass
class Tokens:
    """A conversation as tokens, its images not read yet.

    Attributes:
        input_ids: [T] with BOS, each image as V image tokens.
        labels: [T], as in `Sample`.
        loss_weights: [T].
        images: one reference per image slot.
    """

    input_ids: list[int]
    labels: list[int]
    loss_weights: list[float]
    images: list[ImageRef]


@dataclass
class EncodedPrompt:
    """A prompt that ends in "Assistant:", and what is expected of it. Fields as in `Prompts`."""

    input_ids: list[int]
    images: list[EncodedImage]
    references: tuple[str, ...]
    question_type: str
    question: str
    source: str


def encode(
    conversation: Conversation,
    processor: Processor,
    form: Form = "training",
    max_tokens: int | None = None,
    on_overflow: OnOverflow = "error",
    seen: dict[str, EncodedImage] | None = None,
) -> Sample:
    """One conversation as a row.

    Args:
        conversation: what to encode.
        processor: the checkpoint's tokenizer and image rule.
        form: as in `template.render`.
        max_tokens: longest row allowed, image tokens counted; None takes the checkpoint's context.
        on_overflow: what becomes of a longer one, see `tokenize`.
        seen: images already read, by name; filled here, so rows encoded together share them.

    Raises:
        UserError: as `tokenize` and `images.load_image`.
    """
    tokens = tokenize(conversation, processor, form, max_tokens, on_overflow)
    length = len(tokens.input_ids)
    return Sample(
        input_ids=tokens.input_ids,
        labels=tokens.labels,
        loss_weights=tokens.loss_weights,
        position_ids=list(range(length)),
        segments=[0] * length,
        branches=[0] * length,
        images=make_pixels(
            tokens.images, processor, conversation.source, {} if seen is None else seen
        ),
        sources=[conversation.source],
    )


def encode_prompt(
    conversation: Conversation,
    processor: Processor,
    max_tokens: int | None = None,
    on_overflow: OnOverflow = "error",
    seen: dict[str, EncodedImage] | None = None,
) -> EncodedPrompt:
    """The prompt up to the last "Assistant:", with the accepted answers (() if none).

    Arguments and errors are those of `encode`. Truncating drops whole pairs only, so that the last one left is asked.
    """
    limit = processor.context_tokens if max_tokens is None else max_tokens
    if on_overflow == "truncate":
        conversation = drop_pairs(conversation, processor, "generation", limit)
    tokens = tokenize(conversation, processor, "generation", limit)
    return EncodedPrompt(
        input_ids=tokens.input_ids,
        images=make_pixels(
            tokens.images, processor, conversation.source, {} if seen is None else seen
        ),
        references=conversation.accepted_answers,
        question_type=conversation.question_type,
        question=conversation.question,
        source=conversation.source,
    )


def tokenize(
    conversation: Conversation,
    processor: Processor,
    form: Form = "training",
    max_tokens: int | None = None,
    on_overflow: OnOverflow = "error",
) -> Tokens:
    """The conversation as tokens; reads no image.

    With `on_overflow="truncate"` a conversation that is too long loses its last pairs of question and answer, images
    included. If one pair alone is too long, it loses the end of its answer and with it the end token. A question or
    an image is never cut, and at least one supervised token stays.

    Raises:
        UserError: the conversation cannot be rendered, or is too long and may not or cannot be cut.
    """
    limit = processor.context_tokens if max_tokens is None else max_tokens
    if on_overflow == "truncate":
        conversation = drop_pairs(conversation, processor, form, limit)
    tokens = join_tokens(render(conversation, processor, form), processor)
    if len(tokens.input_ids) <= limit:
        return tokens
    if on_overflow == "truncate":
        return cut_answer(tokens, limit, conversation.source)
    raise UserError(
        f"{conversation.source}: {len(tokens.input_ids)} tokens, {len(tokens.images) * processor.image_tokens} of them "
        f"for images, but the limit is {limit}. Shorten the row, raise max_tokens, or set on_overflow: truncate."
    )


def drop_pairs(
    conversation: Conversation, processor: Processor, form: Form, limit: int
) -> Conversation:
    """The conversation without its last pairs of question and answer: as few as make it fit, never all that learn."""
    turns = conversation.turns
    while len(turns) > 2:
        tokens = join_tokens(render(replace(conversation, turns=turns), processor, form), processor)
        fewer = turns[:-2] if turns[-1].role == "assistant" else turns[:-1]
        learns = any(turn.role == "assistant" and turn.weight > 0 for turn in fewer)
        if len(tokens.input_ids) <= limit or (form == "training" and not learns):
            break
        turns = fewer
    if len(turns) < len(conversation.turns):  # the references belong to a question that is gone
        return replace(conversation, turns=turns, references=())
    return conversation


def cut_answer(tokens: Tokens, limit: int, source: str) -> Tokens:
    """The first `limit` tokens. After `drop_pairs` only the last answer is supervised, so every image comes before it."""
    cut = Tokens(
        tokens.input_ids[:limit], tokens.labels[:limit], tokens.loss_weights[:limit], tokens.images
    )
    if any(cut.loss_weights):
        return cut
    prompt = next(
        (i for i, weight in enumerate(tokens.loss_weights) if weight), len(tokens.input_ids)
    )
    raise UserError(
        f"{source}: {prompt} tokens come before the first supervised one, but the limit is {limit}, and neither questions "
        "nor images are cut. Shorten the question, show fewer images, or raise max_tokens."
    )


def join_tokens(segments: list[Segment], processor: Processor) -> Tokens:
    """The segments' tokens after one BOS."""
    tokens = Tokens([processor.bos_id], [IGNORE_INDEX], [0.0], [])
    for segment in segments:
        if isinstance(segment.content, ImageRef):
            ids = [processor.image_token_id] * processor.image_tokens
            tokens.images.append(segment.content)
        else:
            ids = token_ids(processor.tokenizer, segment.content)
        tokens.input_ids += ids
        tokens.labels += ids if segment.supervised else [IGNORE_INDEX] * len(ids)
        tokens.loss_weights += [segment.weight] * len(ids)
    return tokens


@lru_cache(maxsize=10_000)
def token_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Tokens of a segment; the same system prompt, question or answer comes again and again. Not to be changed."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def make_pixels(
    images: list[ImageRef], processor: Processor, source: str, seen: dict[str, EncodedImage]
) -> list[EncodedImage]:
    """What each slot shows; every distinct image is read once."""
    for ref in images:
        if ref.name not in seen:
            seen[ref.name] = load_vision_input(ref, processor, source)
    return [seen[ref.name] for ref in images]
