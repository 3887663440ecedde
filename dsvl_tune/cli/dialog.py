"""A conversation with a model in the terminal."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast, TextStreamer

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.terminal import escape
from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.evaluation.chat_model import ChatModel, image_ref, question_parts
from dsvl_tune.evaluation.generation.generate import Sampling

IMAGE_COMMAND = "/image"


@dataclass
class Dialog:
    """A conversation in the terminal. A question that fails leaves it as it was.

    Attributes:
        model: Model that answers.
        system: System prompt; None takes the checkpoint's.
        sampling: How to sample tokens; None is greedy.
        max_new_tokens: Length of the longest answer.
        images: Images of the next question.
        turns: Questions and answers so far.
    """

    model: ChatModel
    system: str | None
    sampling: Sampling | None
    max_new_tokens: int
    images: list[ImageRef]
    turns: tuple[Turn, ...] = ()

    def handle(self, line: str) -> None:
        """Take an image or answer a question."""
        command, _, text = line.partition(" ")
        if command == IMAGE_COMMAND:
            self.images.append(image_ref(typed_path(text), IMAGE_COMMAND))
        else:
            self.ask(line, "conversation")

    def ask(self, question: str, source: str) -> None:
        """Print the answer while it is generated, and keep question and answer.

        Args:
            question: What the user typed.
            source: Where it was typed, for errors.

        Raises:
            UserError: The question is no text, or its images do not fit it.
        """
        try:
            question.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{source}: {question!r} is not UTF-8.") from None
        turns = (*self.turns, Turn("user", question_parts(question, self.images, source)))
        reply = self.model.reply(
            Conversation(turns, source, self.system),
            max_new_tokens=self.max_new_tokens,
            sampling=self.sampling,
            streamer=AnswerStreamer(self.model.processor.tokenizer),
        )
        if not reply.complete:
            print(f"(cut off after {reply.tokens} tokens: --max_new_tokens)", file=sys.stderr)
        if not reply.text:
            print("(no answer: the question is dropped)", file=sys.stderr)
            return
        self.turns = (*turns, Turn("assistant", (reply.text,)))
        self.images = []


class AnswerStreamer(TextStreamer):
    """Prints word by word, without the white space that answers begin with.

    Args:
        tokenizer: Tokenizer of the checkpoint.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._has_started = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print new text, and a newline at the end of the answer.

        Args:
            text: What is new.
            stream_end: Whether the answer ends with it.
        """
        shown = text if self._has_started else text.lstrip()
        self._has_started = self._has_started or bool(shown)
        print(escape(shown, keep="\n\t"), flush=True, end="\n" if stream_end else "")


def typed_path(text: str) -> Path:
    r"""Read a path as people type it: as it is, or quoted or escaped as in a shell.

    Args:
        text: What was typed.

    Example:
        >>> typed_path('"a b.jpg"'), typed_path(r"a\ b.jpg"), typed_path("a b.jpg")
        (PosixPath('a b.jpg'), PosixPath('a b.jpg'), PosixPath('a b.jpg'))
    """
    text = text.strip()
    as_typed = Path(text).expanduser()
    if not as_typed.exists():
        try:
            words = shlex.split(text)
        except ValueError:  # a quote without its partner, as in it's.png
            words = []
        if len(words) == 1:
            return Path(words[0])
    return Path(text)


def read_sampling(
    temperature: float, top_p: float | None, repetition_penalty: float | None
) -> Sampling | None:
    """Read the options of sampling.

    Args:
        temperature: 0 is greedy.
        top_p: None takes the default.
        repetition_penalty: None takes the default.

    Returns:
        How to sample; None is greedy.

    Raises:
        UserError: A value that has no effect on greedy answers.
    """
    options = {"top_p": top_p, "repetition_penalty": repetition_penalty}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if temperature == 0:
        for name, value in given.items():
            raise UserError(
                f"--{name} {value}: no effect on greedy answers. Sample them: --temperature 0.2."
            )
        return None
    return Sampling(temperature, **given)
