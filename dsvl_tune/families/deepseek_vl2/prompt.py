r"""The prompt of DeepSeek-VL2; which pieces are supervised is decided while it is rendered.

Source: `format_messages_v2` and `tokenize_with_images` in
deepseek_vl2/models/processing_deepseek_vl_v2.py::

    SYSTEM<|User|>: QUESTION\n\n<|Assistant|>:ANSWER<eos><|User|>: QUESTION\n\n<|Assistant|>:

There is no space before an answer, although the text that the original prints has one: its pieces
are stripped and tokenized apart. Supervised are the answer and the end token after it.
"""

from __future__ import annotations

from dsvl_tune.core.family import Processor, RenderMode, Segment
from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.families.deepseek_vl.prompt import (
    check_text,
    prompt_turns,
    supervised_by_mode,
    turn_parts,
)


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
    turns = prompt_turns(conversation, mode)
    segments = render_system(conversation, processor)
    for number, turn in enumerate(turns):
        where = f"{conversation.source}: turn {number + 1} ({turn.role})"
        segments += render_turn(turn, number, processor, where)
    return supervised_by_mode(segments, mode, conversation.source)


def render_system(conversation: Conversation, processor: Processor) -> list[Segment]:
    """The system prompt as a beginning of the first turn; [] if there is none."""
    system = processor.default_system if conversation.system is None else conversation.system
    check_text(system, processor, f"{conversation.source}: system prompt")
    return [Segment(system.strip(), turn=0)] if system.strip() else []


def render_turn(turn: Turn, number: int, processor: Processor, where: str) -> list[Segment]:
    """One turn with its role, and after a question the opening of the answer."""
    parts = turn_parts(turn, processor, where)
    if turn.role == "user":
        pieces = question_pieces(parts, processor.roles)
        return [Segment(content, turn=number) for content in pieces]
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
