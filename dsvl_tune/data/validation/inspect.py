"""Every row once: what is wrong with it, how long it is, what it shows. Many processes, in the rows' order."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from typing import Any

from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation, Processor
from dsvl_tune.data.encoding.packing import tree_key
from dsvl_tune.data.encoding.tokenize import OnOverflow, tokenize
from dsvl_tune.data.images.load import load_image
from dsvl_tune.data.readers.stream import StreamedRows
from dsvl_tune.families.base import RenderMode

PLACEHOLDERS = re.compile(
    r"<image>|<image_placeholder>|<\|image[\w]*\|>|<img>|<ImageHere>|<\|vision_start\|>|\[IMG\]",
    re.I,
)
"""How other tools write an image into text; here it would be read as these letters."""
FORK_FROM = 2000
"""Rows from which on more processes save more time than their start takes."""


@dataclass(frozen=True)
class Facts:
    """What one conversation turned out to be.

    Attributes:
        source: file and row.
        error: what `fit` would stop with; "" if nothing. The rest is then 0 or empty.
        tokens: its length, images counted, before any truncation. supervised: how many of them are supervised.
        cut: whether `on_overflow: truncate` shortens it.
        turns: turns of both sides.
        images: names of its images in order.
        looks: a 64-bit fingerprint of each image's look; empty unless asked for.
        question: a digest of its first question, without case, punctuation and images.
        literals: placeholder strings of other tools that stand in its text as text.
        tree: equal for conversations that one message tree may hold; None for one that stays alone.
    """

    source: str
    error: str = ""
    tokens: int = 0
    supervised: int = 0
    cut: bool = False
    turns: int = 0
    images: tuple[str, ...] = ()
    looks: tuple[int, ...] = ()
    question: str = ""
    literals: tuple[str, ...] = ()
    tree: str | None = None


@dataclass
class Examine:
    """Finds the facts of a row's conversations; remembers which images it has decoded.

    Attributes:
        processor: the checkpoint's.
        mode, max_tokens, on_overflow: as in `encode.tokenize`.
        decode: whether images are decoded, each distinct one once a process.
        looks: whether the images' looks are noted.
    """

    processor: Processor
    mode: RenderMode = "training"
    max_tokens: int | None = None
    on_overflow: OnOverflow = "error"
    decode: bool = True
    looks: bool = False

    def __post_init__(self) -> None:
        self.seen: dict[str, int] = {}

    def __call__(self, row: list[Conversation]) -> list[Facts]:
        """The facts of each."""
        found = []
        for conversation in row:
            try:
                found.append(self.facts(conversation))
            except UserError as error:
                found.append(Facts(conversation.source, str(error)))
        return found

    def identity(self) -> str:
        """What the facts depend on beside the row."""
        settings = (self.mode, self.max_tokens, self.on_overflow, self.decode, self.looks)
        return f"{settings}{processor_identity(self.processor)}"

    def facts(self, conversation: Conversation) -> Facts:
        """The facts.

        Raises:
            UserError: what `fit` would stop with.
        """
        limit = self.processor.context_tokens if self.max_tokens is None else self.max_tokens
        tokens = tokenize(conversation, self.processor, self.mode, limit, self.on_overflow)
        whole = tokens
        if self.on_overflow == "truncate":
            whole = tokenize(conversation, self.processor, self.mode, 1 << 60)
        for ref in conversation.images if self.decode else ():
            if ref.name not in self.seen:
                image = load_image(ref, conversation.source)
                self.seen[ref.name] = look(image) if self.looks else 0
        return Facts(
            conversation.source,
            tokens=len(whole.input_ids),
            supervised=sum(weight > 0 for weight in whole.loss_weights),
            cut=len(whole.input_ids) > len(tokens.input_ids),
            turns=len(conversation.turns),
            images=tuple(ref.name for ref in conversation.images),
            looks=tuple(self.seen[ref.name] for ref in conversation.images) if self.looks else (),
            question=question_digest(conversation),
            literals=literal_placeholders(conversation),
            tree=tree_digest(conversation),
        )


@dataclass
class Surveyed:
    """A map-style data set of facts, for the loader's processes."""

    rows: Sequence[list[Conversation]]
    examine: Callable[[list[Conversation]], list[Facts]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[Facts]:
        try:
            return self.examine(self.rows[index])
        except UserError as error:
            return [Facts("", str(error))]


def survey(
    rows: Sequence[list[Conversation]],
    examine: Callable[[list[Conversation]], list[Facts]],
    title: str = "checking rows",
) -> Iterator[Facts]:
    """The facts of every row, in order. A row that cannot even be read has one, with its error and no source.

    Args:
        rows: read one by one; of a stream all of them, as its shards lie there.
        examine: usually `Examine`: a fact for each conversation.
        title: of the progress bar.
    """
    return chain.from_iterable(examined(rows, examine, None, title))


def examined(
    rows: Sequence[list[Conversation]],
    examine: Callable[[list[Conversation]], list[Facts]],
    numbers: Sequence[int] | None,
    title: str,
) -> Iterator[list[Facts]]:
    """The facts of each of the rows with these numbers, of all without; other arguments as in `survey`."""
    streamed = isinstance(rows, StreamedRows)
    total = None if streamed else len(rows) if numbers is None else len(numbers)
    keys = iter(
        rows.records()
        if isinstance(rows, StreamedRows)
        else range(len(rows))
        if numbers is None
        else numbers
    )
    workers = min(os.cpu_count() or 1, 16) if total is None or total >= FORK_FROM else 0
    loader: DataLoader[Any] = DataLoader(
        Surveyed(rows, examine),  # type: ignore[arg-type]  # has length and items
        batch_sampler=iter(lambda: list(islice(keys, 64)), []),
        num_workers=workers,
        collate_fn=list,
    )
    with tqdm(total=total, desc=title, unit="row", leave=False) as progress:
        for batch in loader:
            progress.update(len(batch))
            yield from batch


def processor_identity(processor: Processor) -> str:
    """What a row's tokens depend on beside its text."""
    settings = (processor.image_settings, processor.default_system, processor.context_tokens)
    return f"{settings}{processor.tokenizer.backend_tokenizer.to_str()}"


def look(image: Image.Image) -> int:
    """64 bits, one for each neighbouring pair of a 9 x 8 grey thumbnail: whether it gets clearly brighter to the right.

    The "difference hash" of image search; the same picture at another size or quality differs in a few bits. Clearly
    is by more than 4 of 255, so that even ground gives zeros and no noise.
    """
    grey = image.convert("L").resize((9, 8), Image.Resampling.BOX).tobytes()
    bits = (grey[9 * y + x] + 4 < grey[9 * y + x + 1] for y in range(8) for x in range(8))
    return sum(bit << i for i, bit in enumerate(bits))


def tree_digest(conversation: Conversation) -> str | None:
    """A digest of `packing.tree_key`."""
    key = tree_key(conversation)
    return None if key is None else blake2b(repr(key).encode(), digest_size=12).hexdigest()


def question_digest(conversation: Conversation) -> str:
    """The first question's words alone."""
    text = " ".join(part for part in conversation.turns[0].parts if isinstance(part, str))
    words = " ".join(re.findall(r"\w+", text.casefold()))
    return blake2b(words.encode(), digest_size=12).hexdigest()


def literal_placeholders(conversation: Conversation) -> tuple[str, ...]:
    """Placeholder strings that stand in the conversation's text."""
    texts = (part for turn in conversation.turns for part in turn.parts if isinstance(part, str))
    return tuple(sorted({found for text in texts for found in PLACEHOLDERS.findall(text)}))
