"""What validation finds out about a conversation: errors, length, images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor, RenderMode
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.encoding.packing import tree_key
from dsvl_tune.data.encoding.tokenize import OnOverflow, image_lengths, tokenize
from dsvl_tune.data.formats.tags import TAG
from dsvl_tune.data.images.load import load_image
from dsvl_tune.data.validation.perceptual_hash import perceptual_hash

NO_LIMIT = 1 << 60
"""Tokens that no conversation has."""


@dataclass(frozen=True)
class RowStats:
    """What was found out about one conversation.

    Attributes:
        source: file and row.
        error: what `fit` would stop with; "" if nothing. Everything else is then 0 or empty.
        tokens: its length before any truncation, image tokens counted.
        encoded_tokens: its length after truncation.
        image_tokens: how many of the encoded tokens are image tokens.
        supervised: how many of `tokens` are supervised.
        turns: turns of both sides.
        images: names of its images, in order.
        image_lengths: tokens of each, and its tiles if the family cuts images, in words.
        hashes: perceptual hash of each image; () unless asked for.
        question: digest of its first question, without case, punctuation and images.
        literals: tags in its text that are words there.
        tree: equal for conversations that one message tree can hold; None for one that stays alone.
    """

    source: str
    error: str = ""
    tokens: int = 0
    encoded_tokens: int = 0
    image_tokens: int = 0
    supervised: int = 0
    turns: int = 0
    images: tuple[str, ...] = ()
    image_lengths: tuple[str, ...] = ()
    hashes: tuple[int, ...] = ()
    question: str = ""
    literals: tuple[str, ...] = ()
    tree: str | None = None

    @property
    def cut(self) -> bool:
        """Whether truncation shortens it."""
        return self.encoded_tokens < self.tokens


def row_length(row: Sequence[RowStats]) -> int:
    """Tokens of a row: of a message tree the images once, and every conversation's other tokens.

    Args:
        row: the statistics of the row's conversations.
    """
    shared = sum(stats.image_tokens for stats in row[1:])
    return sum(stats.encoded_tokens for stats in row) - shared


@dataclass
class RowInspector:
    """Finds out the statistics of a row's conversations.

    Attributes:
        processor: the checkpoint's.
        mode: whether the row is trained on or answered, as in `tokenize`.
        max_tokens: longest conversation allowed; None takes the checkpoint's context.
        on_overflow: as in `tokenize`.
        decode: whether images are decoded, each distinct one once per process.
        hash_images: whether images are hashed, which needs `decode`.
    """

    processor: Processor
    mode: RenderMode = "training"
    max_tokens: int | None = None
    on_overflow: OnOverflow = "error"
    decode: bool = True
    hash_images: bool = False
    decoded: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, row: Sequence[Conversation]) -> list[RowStats]:
        """The statistics of each conversation."""
        found = []
        for conversation in row:
            try:
                found.append(self.inspect(conversation))
            except UserError as error:
                found.append(RowStats(conversation.source, str(error)))
        return found

    def identity(self) -> str:
        """What the statistics depend on besides the row."""
        settings = (self.mode, self.max_tokens, self.on_overflow, self.decode, self.hash_images)
        return f"{settings}{processor_identity(self.processor)}"

    def inspect(self, conversation: Conversation) -> RowStats:
        """The statistics of one conversation.

        Raises:
            UserError: what `fit` would stop with.
        """
        limit = self.processor.context_tokens if self.max_tokens is None else self.max_tokens
        encoded = whole = tokenize(conversation, self.processor, self.mode, NO_LIMIT)
        if len(whole.input_ids) > limit:
            encoded = tokenize(conversation, self.processor, self.mode, limit, self.on_overflow)
        if self.decode:
            self.decode_images(conversation)
        names = tuple(ref.name for ref in conversation.images)
        return RowStats(
            conversation.source,
            tokens=len(whole.input_ids),
            encoded_tokens=len(encoded.input_ids),
            image_tokens=encoded.image_tokens,
            supervised=sum(weight > 0 for weight in whole.loss_weights),
            turns=len(conversation.turns),
            images=names,
            image_lengths=tuple(image_lengths(whole, self.processor)),
            hashes=tuple(self.decoded[name] for name in names) if self.hash_images else (),
            question=question_digest(conversation),
            literals=literal_placeholders(conversation),
            tree=tree_digest(conversation),
        )

    def decode_images(self, conversation: Conversation) -> None:
        """Decode the images that this process has not decoded yet.

        Raises:
            UserError: one cannot be decoded.
        """
        for ref in conversation.images:
            if ref.name not in self.decoded:
                image = load_image(ref, conversation.source)
                self.decoded[ref.name] = perceptual_hash(image) if self.hash_images else 0


def inspect_outline(row: Sequence[Conversation]) -> list[RowStats]:
    """Images and tree of each conversation: all that a process needs besides the first one."""
    return [
        RowStats(
            conversation.source,
            images=tuple(ref.name for ref in conversation.images),
            tree=tree_digest(conversation),
        )
        for conversation in row
    ]


def processor_identity(processor: Processor) -> str:
    """What a row's tokens depend on besides its text."""
    settings = (processor.image_settings, processor.default_system, processor.context_tokens)
    return f"{settings}{processor.tokenizer.backend_tokenizer.to_str()}"


def tree_digest(conversation: Conversation) -> str | None:
    """Digest of `tree_key`."""
    key = tree_key(conversation)
    return None if key is None else blake2b(repr(key).encode(), digest_size=12).hexdigest()


def question_digest(conversation: Conversation) -> str:
    """Digest of the words of the first question."""
    text = " ".join(part for part in conversation.turns[0].parts if isinstance(part, str))
    words = " ".join(re.findall(r"\w+", text.casefold()))
    return blake2b(words.encode(), digest_size=12).hexdigest()


def literal_placeholders(conversation: Conversation) -> tuple[str, ...]:
    """Tags in the conversation's text, which the row wrote as words (`tags.TAG`)."""
    texts = (part for turn in conversation.turns for part in turn.parts if isinstance(part, str))
    return tuple(sorted({found["tag"] for text in texts for found in TAG.finditer(text)}))
