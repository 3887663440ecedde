"""A text file in windows of tokens, to measure how well a model predicts the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import IGNORE_INDEX, Sample, Texts
from dsvl_tune.data.encoding.collate import collate
from dsvl_tune.data.rows import LazyItems

WINDOW_TOKENS = 1024
"""Longest window. A longer one lowers the perplexity of any model, so the length is part of it."""
MOST_BYTES = 50_000_000
"""Larger files are no sample: a model would read them for hours at each validation."""


@dataclass(frozen=True)
class Window:
    """A part of a text.

    Attributes:
        source: file and number of the window.
        token_ids: [T], BOS first.
    """

    source: str
    token_ids: list[int]


@dataclass(frozen=True)
class TextWindows(LazyItems[Window]):
    """The windows of a text, one after another; none overlaps another.

    Attributes:
        path: the file.
        token_ids: of the whole text, without BOS.
        bos_id: token id that every window begins with.
        tokens: of the longest window, BOS counted.
    """

    path: Path
    token_ids: Sequence[int]
    bos_id: int
    tokens: int

    def __len__(self) -> int:
        return -(-len(self.token_ids) // (self.tokens - 1))

    def __getitem__(self, index: int) -> Window:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * (self.tokens - 1)
        ids = self.token_ids[start : start + self.tokens - 1]
        return Window(f"{self.path}, window {index + 1}", [self.bos_id, *ids])


def read_text_windows(path: Path, processor: Processor, max_tokens: int | None) -> TextWindows:
    """Tokenize a text file.

    Args:
        path: the file, UTF-8.
        processor: of the checkpoint.
        max_tokens: longest row of a run; None takes the checkpoint's context.

    Raises:
        UserError: it cannot be read, is no UTF-8, is empty, or is too large to be read again and
            again.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(
                f"{path}: {path.stat().st_size:,} bytes, expected at most {MOST_BYTES:,}, because "
                "it is read at every validation. Give an excerpt."
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: could not be read ({error.strerror}). Expected a text."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is no UTF-8. Expected a text.") from error
    token_ids = processor.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if not token_ids:
        raise UserError(f"{path}: no text. Expected a text whose perplexity is measured.")
    longest = processor.context_tokens if max_tokens is None else max_tokens
    return TextWindows(path, token_ids, processor.bos_id, max(2, min(longest, WINDOW_TOKENS)))


def make_texts(numbered: Sequence[tuple[int, Window]], pad_id: int) -> Texts:
    """Windows collated.

    Args:
        numbered: number and window.
        pad_id: token id of padding.
    """
    batch = collate([_sample(window) for _, window in numbered], pad_id)
    return Texts(**vars(batch), numbers=[number for number, _ in numbered])


def _sample(window: Window) -> Sample:
    """A window as a row, every token after the first supervised."""
    length = len(window.token_ids)
    return Sample(
        input_ids=window.token_ids,
        labels=[IGNORE_INDEX, *window.token_ids[1:]],
        loss_weights=[0.0] + [1.0] * (length - 1),
        position_ids=list(range(length)),
        segment_ids=[0] * length,
        branch_ids=[0] * length,
        images=[],
        image_spans=[],
        sources=[window.source],
    )
