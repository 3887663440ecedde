"""Questions to one model or to two, answered while somebody watches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from transformers import PreTrainedTokenizerFast, TextStreamer

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.data.images.load import load_image
from dsvl_tune.evaluation.chat_model import ChatModel, question_parts

SOURCE = "question"
"""What errors call the page's form."""


@dataclass(frozen=True)
class Column:
    """A model of the page.

    Attributes:
        title: Shown above its answers.
        model: That answers.
    """

    title: str
    model: ChatModel


@dataclass(frozen=True)
class Asked:
    """A question with its answers.

    Attributes:
        conversation: What was asked.
        answers: One for each column, in order.
    """

    conversation: Conversation
    answers: tuple[str, ...]


def read_picture(path: Path, name: str) -> ImageRef:
    """Read a picture that somebody dropped, as the pictures of rows are read.

    Args:
        path: Of the file.
        name: That it had, for errors.

    Raises:
        UserError: It is no picture, damaged, or too large.
    """
    content = path.read_bytes()
    load_image(ImageRef(content, name), SOURCE)
    return ImageRef(content, f"{name} {hashlib.sha256(content).hexdigest()}")


def conversation_about(question: str, picture: ImageRef | None, system: str | None) -> Conversation:
    """A question about a picture.

    Args:
        question: With `<image>` at the picture's place, or without; then the picture comes first.
        picture: None asks without one.
        system: System prompt; None takes the checkpoint's.

    Raises:
        UserError: The question is empty, or `<image>` and the picture do not match.
    """
    if not question.strip():
        raise UserError(f"{SOURCE}: it is empty. Expected a question.")
    parts = question_parts(question.strip(), [picture] if picture else [], SOURCE)
    return Conversation((Turn("user", parts),), SOURCE, system)


def stream_answers(
    columns: Sequence[Column], conversation: Conversation, max_new_tokens: int
) -> Iterator[tuple[str, ...]]:
    """Answer by one model after the other.

    Args:
        columns: The models.
        conversation: What is asked.
        max_new_tokens: Length of the longest answer.

    Yields:
        The answers as far as they are, one for each column; "" for those that have not begun.

    Raises:
        UserError: The question is longer than a model's context.
    """
    texts = [""] * len(columns)
    for place, column in enumerate(columns):
        for text in stream_answer(column.model, conversation, max_new_tokens):
            texts[place] = text
            yield tuple(texts)


def stream_answer(
    model: ChatModel, conversation: Conversation, max_new_tokens: int
) -> Iterator[str]:
    """Answer in a thread; when the caller stops listening, so does the model.

    Args:
        model: That answers.
        conversation: What is asked.
        max_new_tokens: Length of the longest answer.

    Yields:
        The answer so far, after every token, and at last as `ChatModel.reply` gives it.

    Raises:
        UserError: The question is longer than the model's context.
    """
    found: SimpleQueue[str | BaseException | None] = SimpleQueue()
    streamer = _TokenStreamer(model.processor.tokenizer, found)

    def answer() -> None:
        try:
            # A model of its own: `ChatModel` keeps every picture that it was asked about.
            reply = ChatModel(model.network, model.processor).reply(
                conversation, max_new_tokens=max_new_tokens, streamer=streamer
            )
            found.put(reply.text)
            found.put(None)
        except BaseException as error:  # goes on in the caller's thread
            found.put(error)

    thread = Thread(target=answer, daemon=True)
    thread.start()
    try:
        while (item := found.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        streamer.is_stopped.set()
        thread.join()


class _Stopped(Exception):
    """Nobody listens any more."""


class _TokenStreamer(TextStreamer):
    """Puts the answer so far into a queue after every token.

    transformers' own waits for the end of a word; JSON without spaces is one word.

    Args:
        tokenizer: Of the checkpoint.
        found: Where the texts go.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        found: SimpleQueue[str | BaseException | None],
    ) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.is_stopped = Event()
        self._found = found
        self._ids: list[int] = []
        self._has_prompt = False

    def put(self, value: Any) -> None:
        """Take the prompt, which comes first, or a new token."""
        if self.is_stopped.is_set():
            raise _Stopped
        if not self._has_prompt:
            self._has_prompt = True
            return
        self._ids += value.flatten().tolist()
        text = self.tokenizer.decode(self._ids, skip_special_tokens=True)
        self._found.put(text.strip().rstrip("\ufffd"))  # the beginning of a character

    def end(self) -> None:
        """Nothing is left to show."""
