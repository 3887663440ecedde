r"""The prompt of DeepSeek-VL; which pieces are supervised is decided while it is rendered.

Sources: deepseek_vl/utils/conversation.py (template "deepseek") and
deepseek_vl/models/processing_vlm.py::

    SYSTEM\n\nUser: QUESTION\n\nAssistant: ANSWER<eos>User: QUESTION\n\nAssistant:

Supervised are the answer with the space before it and the end token after it, nothing else. What
the two sides are called is in `Processor.roles`.
"""

from __future__ import annotations

from itertools import groupby

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor, RenderMode, Segment
from dsvl_tune.core.types import Conversation, ImageRef, Turn

Part = str | ImageRef


def render(conversation: Conversation, processor: Processor, mode: RenderMode) -> list[Segment]:
    """The whole prompt without the BOS token.

    Segments meet at special tokens and before the space of an answer, where the tokenizer splits
    anyway: tokenized one by one they give the ids of the whole string.

    Args:
        conversation: what to render.
        processor: the checkpoint's tokenizer and template data.
        mode: "training" ends in an answer. "generation" ends in the assistant's role and a colon,
            without a last turn of the assistant, and supervises nothing.

    Raises:
        UserError: turns that do not alternate, an empty turn, an image in an answer, a special
            token as text, or, for training, no supervised answer.
    """
    turns = prompt_turns(conversation, mode)
    segments = render_system(conversation, processor)
    for number, turn in enumerate(turns):
        where = f"{conversation.source}: turn {number + 1} ({turn.role})"
        segments += render_turn(turn, number, processor, where)
    return join_unsupervised(supervised_by_mode(segments, mode, conversation.source))


def render_system(conversation: Conversation, processor: Processor) -> list[Segment]:
    """The system prompt as a beginning of the first turn; [] if there is none."""
    system = processor.default_system if conversation.system is None else conversation.system
    check_text(system, processor, f"{conversation.source}: system prompt")
    return [Segment((system + "\n\n").lstrip(), turn=0)] if system else []


def render_turn(turn: Turn, number: int, processor: Processor, where: str) -> list[Segment]:
    """One turn with its role, and after a question the opening of the answer."""
    parts = turn_parts(turn, processor, where)
    if turn.role == "user":
        user, assistant = processor.roles
        contents = [f"{user}: ", *parts, f"\n\n{assistant}:"]
        return [Segment(content, turn=number) for content in contents]
    eos = processor.tokenizer.convert_ids_to_tokens(processor.eos_id)
    return [Segment(f" {''.join(map(str, parts))}{eos}", weight=turn.weight, turn=number)]


def prompt_turns(conversation: Conversation, mode: RenderMode) -> tuple[Turn, ...]:
    """The turns of a prompt, in order: for generation without a last turn of the assistant."""
    turns = conversation.turns
    if mode == "generation" and turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    check_order(turns, mode, conversation.source)
    return turns


def supervised_by_mode(segments: list[Segment], mode: RenderMode, source: str) -> list[Segment]:
    """The segments as they are for training, unsupervised for generation.

    Raises:
        UserError: for training, nothing is supervised.
    """
    if mode == "generation":
        return [Segment(segment.content, turn=segment.turn) for segment in segments]
    if not any(segment.supervised for segment in segments):
        raise UserError(
            f"{source}: every answer has weight 0, so nothing is supervised. Drop the row."
        )
    return segments


def turn_parts(turn: Turn, processor: Processor, where: str) -> list[Part]:
    """The parts of a turn as `strip_parts` leaves them.

    Raises:
        UserError: a text that cannot be tokenized as text, an empty turn, an image in an answer.
    """
    for part in turn.parts:
        if isinstance(part, str):
            check_text(part, processor, where)
    parts = strip_parts(turn.parts)
    if not parts:
        expected = "text or an image" if turn.role == "user" else "text"
        raise UserError(f"{where}: empty. Expected {expected}; drop the row.")
    if turn.role == "assistant" and any(isinstance(part, ImageRef) for part in parts):
        raise UserError(
            f"{where}: an image in an answer. The model answers in text; move it to a user turn."
        )
    return parts


def strip_parts(parts: tuple[Part, ...]) -> list[Part]:
    """The parts without outer whitespace, adjacent texts joined and empty ones left out.

    The original strips a turn whose images are placeholder strings, so whitespace next to an image
    stays.
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
    """Adjacent unsupervised texts of a turn as one segment: a token may span them."""

    def group(segment: Segment) -> tuple[bool, int]:
        unsupervised_text = isinstance(segment.content, str) and not segment.supervised
        return unsupervised_text, segment.turn

    joined: list[Segment] = []
    for (unsupervised_text, turn), members in groupby(segments, key=group):
        if unsupervised_text:
            text = "".join(str(segment.content) for segment in members)
            joined.append(Segment(text, turn=turn))
        else:
            joined += members
    return joined


def check_order(turns: tuple[Turn, ...], mode: RenderMode, source: str) -> None:
    """Raise unless the turns alternate from the user's to the one that `mode` ends with."""
    for number, turn in enumerate(turns, start=1):
        expected = "user" if number % 2 else "assistant"
        if turn.role != expected:
            raise UserError(
                f"{source}: turn {number} is of role {turn.role!r}, expected {expected!r}: the "
                "user begins and turns alternate. Join turns of one side or drop the row."
            )
    if not turns or (mode == "training" and turns[-1].role == "user"):
        wrong = "the last question has no answer" if turns else "no turns"
        raise UserError(
            f"{source}: {wrong}. Expected pairs of a user's and an assistant's turn; add the "
            "answer or drop the turn."
        )


def check_text(text: str, processor: Processor, where: str) -> None:
    """Raise if the text has half a character, or a string that is a special token."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: the text holds half a character ({error}). Repair the text."
        ) from None
    for token in processor.tokenizer.all_special_tokens:
        if token in text:
            raise UserError(
                f"{where}: the text holds {token!r}, which the tokenizer reads as a special token, "
                "not as text. Expected plain text, images as parts of their own; remove or reword "
                "it."
            )
