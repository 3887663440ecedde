"""Questions and answers that a row holds beside the ones that its format reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation, Turn
from dsvl_tune.data.formats.tags import PLACEHOLDER
from dsvl_tune.data.formats.values import shown

QUESTION_KEYS = ("question", "query", "prompt")
ANSWER_KEYS = (
    *("answer", "answers", "response", "completion", "label", "caption"),
    "multiple_choice_answer",
)
"""Keys that hold a question or an answer in one of the formats."""
TEXT_KEYS = ("answer", "content", "text")
"""Where an object has its text: VQAv2's answers, messages, and their parts."""


def refuse_second(
    row: Mapping[str, Any], read: Collection[str], conversation: Conversation, source: str
) -> None:
    """Raise if a row holds a question or an answer that is not read and says something else.

    A question may say more or less than the one that is read: MathVista's `query` has its options,
    too, and ultrachat's `prompt` is the first of several. An answer is one of those that are
    accepted, or a part of a message.

    Args:
        row: of any format.
        read: its keys that were read.
        conversation: what was read from them.
        source: file and row, for errors.

    Raises:
        UserError: with both keys.
    """
    questions = _plain(turn.text for turn in _turns(conversation, "user"))
    for key in QUESTION_KEYS:
        second = _plain(said(row.get(key))) if key not in read else []
        if not all(_has_part(text, questions) for text in second):
            raise _two_things(row, key, read, QUESTION_KEYS, source)
    answers = _plain(turn.text for turn in _turns(conversation, "assistant"))
    keys = [key for key in ANSWER_KEYS if key in read]
    accepted = answers + _plain(conversation.references)
    accepted += [text for key in keys for text in _plain(said(row.get(key)))]
    for key in ANSWER_KEYS if answers else ():
        second = _plain(said(row.get(key))) if key not in read else []
        is_said = any(text in accepted for text in second) or (
            not keys and any(text in answer for text in second for answer in answers)
        )
        if second and not is_said:
            raise _two_things(row, key, read, ANSWER_KEYS, source)


def said(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts of a value: itself, those of a list, or of messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth < 3:
        for one in value:
            yield from said(one, depth + 1)
    elif isinstance(value, Mapping):
        yield from (text for key in TEXT_KEYS for text in said(value.get(key), depth + 1))


def refuse_two(mapping: Any, first: str, second: str, where: str) -> None:
    """Raise if two keys of a message or a pair, of which one is read, say two things.

    Raises:
        UserError: with both keys.
    """
    given = [mapping.get(key) for key in (first, second)] if isinstance(mapping, Mapping) else []
    if given and all(value not in (None, "", []) for value in given) and given[0] != given[1]:
        raise UserError(
            f"{where}: both {first!r} and {second!r}, and they differ. Keep the one that is meant."
        )


def _turns(conversation: Conversation, role: str) -> Iterator[Turn]:
    return (turn for turn in conversation.turns if turn.role == role)


def _plain(texts: Any) -> list[str]:
    """Texts without tags of images, case and the width of white space; none that are empty."""
    plain = (" ".join(text.replace(PLACEHOLDER, " ").casefold().split()) for text in texts)
    return [text for text in plain if text]


def _has_part(text: str, others: Collection[str]) -> bool:
    """Whether a text is a part of another, or another of it."""
    return any(text in other or other in text for other in others)


def _two_things(
    row: Mapping[str, Any], key: str, read: Collection[str], kind: Collection[str], source: str
) -> UserError:
    """The error for a key beside the ones that are read, best one of its own kind."""
    held = [one for one in row if one in read and row[one] not in (None, "", [])]
    beside = next((one for one in held if one in kind), held[0])
    return UserError(
        f"{source}: the row says two things: {key!r} ({shown(row[key])}) beside {beside!r} "
        f"({shown(row[beside])}). Remove one of them, or set data.format."
    )
