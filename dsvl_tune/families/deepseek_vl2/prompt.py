r"""The prompt of DeepSeek-VL2; which pieces are supervised is decided while it is rendered.

Source: `format_messages_v2` and `tokenize_with_images` in
deepseek_vl2/models/processing_deepseek_vl_v2.py::

    SYSTEM<|User|>: QUESTION\n\n<|Assistant|>:ANSWER<eos><|User|>: QUESTION\n\n<|Assistant|>:

There is no space before an answer, although the text that the original prints has one: its pieces
are stripped and tokenized apart. Supervised are the answer and the end token after it.
"""

from __future__ import annotations

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation, ImageRef, Processor, Turn
from dsvl_tune.families.base import RenderMode, Segment
from dsvl_tune.families.deepseek_vl.prompt import check_order, check_text, strip_parts


def render(conversation: Conversation, processor: Processor, mode: RenderMode) -> list[Segment]:
    """The whole prompt without the BOS token; each segment is tokenized as a whole.

    Args:
        conversation: what to render.
        processor: the checkpoint's tokenizer and template data.
        mode: "training" ends in an answer. "generation" ends where the answer begins, without a
            last turn of the assistant, and supervises nothing.

    Raises:
        UserError: turns that do not alternate, an empty turn, an image in an answer, a special
            token other than a grounding mark as text, or, for training, no supervised answer.
    """
    turns = conversation.turns
    if mode == "generation" and turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    check_order(turns, mode, conversation.source)

    segments = render_system(conversation, processor)
    for number, turn in enumerate(turns):
        where = f"{conversation.source}: turn {number + 1} ({turn.role})"
        segments += render_turn(turn, number, processor, where)
    if mode == "generation":
        return [Segment(segment.content, turn=segment.turn) for segment in segments]
    if not any(segment.supervised for segment in segments):
        raise UserError(
            f"{conversation.source}: every answer has weight 0, so nothing is supervised. Drop the "
            "row."
        )
    return segments


def render_system(conversation: Conversation, processor: Processor) -> list[Segment]:
    """The system prompt as a beginning of the first turn; [] if there is none."""
    system = processor.default_system if conversation.system is None else conversation.system
    check_text(system, processor, f"{conversation.source}: system prompt")
    return [Segment(system.strip(), turn=0)] if system.strip() else []


def render_turn(turn: Turn, number: int, processor: Processor, where: str) -> list[Segment]:
    """One turn with its role, and after a question the opening of the answer."""
    for part in turn.parts:
        if isinstance(part, str):
            check_text(part, processor, where)
    parts = strip_parts(turn.parts)
    if not parts:
        expected = "text or an image" if turn.role == "user" else "text"
        raise UserError(f"{where}: empty. Expected {expected}; drop the row.")
    if turn.role == "user":
        pieces = question_pieces(parts, processor.roles)
        return [Segment(content, turn=number) for content in pieces]
    if any(isinstance(part, ImageRef) for part in parts):
        raise UserError(
            f"{where}: an image in an answer. The model answers in text; move it to a user turn."
        )
    eos = processor.tokenizer.convert_ids_to_tokens(processor.eos_id)
    return [Segment(f"{''.join(map(str, parts))}{eos}", weight=turn.weight, turn=number)]


def question_pieces(parts: list[str | ImageRef], roles: tuple[str, str]) -> list[str | ImageRef]:
    """A question with its role and the opening of the answer, cut at its images alone."""
    user, assistant = roles
    pieces: list[str | ImageRef] = [f"{user}: "]
    for part in (*parts, f"\n\n{assistant}:"):
        if isinstance(part, str) and isinstance(pieces[-1], str):
            pieces[-1] += part
        else:
            pieces.append(part)
    return pieces
