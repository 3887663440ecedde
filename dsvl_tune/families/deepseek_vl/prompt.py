r"""The prompt of DeepSeek-VL, with what is supervised decided while it is written.

The original is deepseek_vl/utils/conversation.py (template "deepseek") and deepseek_vl/models/processing_vlm.py::

    SYSTEM\n\nUser: QUESTION\n\nAssistant: ANSWER<eos>User: QUESTION\n\nAssistant:

Learnt is the answer with the space before it and the end token after it, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation, ImageRef, Processor, Turn

Form = Literal["training", "generation"]
Part = str | ImageRef


@dataclass(frozen=True)
class Segment:
    """A piece of the prompt that is tokenised as a whole.

    Attributes:
        content: text, special tokens included, or an image.
        weight: loss weight of each of its tokens; 0 if the segment is not supervised.
    """

    content: Part
    weight: float = 0.0

    @property
    def supervised(self) -> bool:
        """Whether its tokens are supervised."""
        return self.weight > 0


def render(
    conversation: Conversation, processor: Processor, form: Form = "training"
) -> list[Segment]:
    """The whole prompt without the BOS token, neighbouring text that is not supervised joined.

    Segments meet at special tokens and before the space of an answer, where the tokenizer splits anyway: tokenising
    them one by one gives the ids of the whole string.

    Args:
        conversation: what to render.
        processor: the checkpoint's template data.
        form: "training" ends in an answer. "generation" ends in "Assistant:", with a last turn of the assistant left
            out, and learns nothing.

    Raises:
        UserError: turns that do not alternate, an empty turn, an image in an answer, a special token as text, or, for
            training, no answer that is supervised.
    """
    turns = conversation.turns
    if form == "generation" and turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    check_order(turns, form, conversation.source)

    system = processor.default_system if conversation.system is None else conversation.system
    check_text(system, processor, f"{conversation.source}: system prompt")
    segments = [Segment((system + "\n\n").lstrip())] if system else []
    for number, turn in enumerate(turns, start=1):
        segments += render_turn(
            turn, processor, f"{conversation.source}: turn {number} ({turn.role})"
        )
    if form == "training" and not any(segment.supervised for segment in segments):
        raise UserError(
            f"{conversation.source}: every answer has weight 0, so nothing is supervised. Leave the row out."
        )
    if form == "generation":
        segments = [Segment(segment.content) for segment in segments]
    return join_unsupervised(segments)


def render_turn(turn: Turn, processor: Processor, where: str) -> list[Segment]:
    """One turn with its role, and after a question the opening of the answer."""
    for part in turn.parts:
        if isinstance(part, str):
            check_text(part, processor, where)
    parts = strip_parts(turn.parts)
    if not parts:
        raise UserError(
            f"{where}: empty. Expected text{' or an image' if turn.role == 'user' else ''}; drop the row."
        )
    if turn.role == "user":
        return [Segment("User: "), *(Segment(part) for part in parts), Segment("\n\nAssistant:")]
    if any(isinstance(part, ImageRef) for part in parts):
        raise UserError(
            f"{where}: an image in an answer. The model answers in text; move it to a user turn."
        )
    eos = processor.tokenizer.convert_ids_to_tokens(processor.eos_id)
    return [Segment(f" {''.join(map(str, parts))}{eos}", weight=turn.weight)]


def strip_parts(parts: tuple[Part, ...]) -> list[Part]:
    """The parts with outer blanks removed, neighbouring texts joined and empty ones left out.

    The original strips a turn whose images are placeholder strings: blanks beside an image stay.
    """
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    if joined and isinstance(joined[0], str):
        joined[0] = joined[0].lstrip()
    if joined and isinstance(joined[-1], str):
        joined[-1] = joined[-1].rstrip()
    return [part for part in joined if part != ""]


def join_unsupervised(segments: list[Segment]) -> list[Segment]:
    """Neighbouring texts that are not supervised as one segment: a token may span them."""
    joined: list[Segment] = []
    for plain, run in groupby(
        segments, key=lambda segment: isinstance(segment.content, str) and not segment.supervised
    ):
        alike = list(run)
        if plain:
            joined.append(Segment("".join(str(segment.content) for segment in alike)))
        else:
            joined += alike
    return joined


def check_order(turns: tuple[Turn, ...], form: Form, source: str) -> None:
    """Raise unless the turns alternate from the user's to the one that `form` ends with."""
    for number, turn in enumerate(turns, start=1):
        expected = "user" if number % 2 else "assistant"
        if turn.role != expected:
            raise UserError(
                f"{source}: turn {number} is of role {turn.role!r}, expected {expected!r}: the user begins and turns "
                "alternate. Join turns of one side or drop the row."
            )
    if not turns or (form == "training" and turns[-1].role == "user"):
        wrong = "the last question has no answer" if turns else "no turns"
        raise UserError(
            f"{source}: {wrong}. Expected pairs of a user's and an assistant's turn; add the answer or drop the turn."
        )


def check_text(text: str, processor: Processor, where: str) -> None:
    """Raise if the text holds half a character, or a string that the tokenizer would read as a special token."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: the text holds half a character ({error}). Repair the text."
        ) from None
    for token in processor.tokenizer.all_special_tokens:
        if token in text:
            raise UserError(
                f"{where}: the text holds {token!r}, which the tokenizer reads as a special token, not as text. "
                "Expected plain text, images as parts of their own; remove or reword it."
            )
