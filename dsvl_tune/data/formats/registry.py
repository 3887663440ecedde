"""Row formats by name: each is a function from a row to a Conversation, and a line of `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats import choices
from dsvl_tune.data.formats.chat import (
    is_official,
    read_deepseek,
    read_llava,
    read_openai,
    read_prompt_completion,
    read_swift,
    read_texts,
)
from dsvl_tune.data.formats.image_refs import ImageSource
from dsvl_tune.data.formats.label_studio import as_plain_row
from dsvl_tune.data.formats.messages import UnmatchedImages
from dsvl_tune.data.formats.twice import refuse_second
from dsvl_tune.data.formats.unread import refuse_unread
from dsvl_tune.data.formats.values import key_names, shown
from dsvl_tune.data.formats.vqa import (
    read_answers,
    read_caption,
    read_chartqa,
    read_question_answer,
)

Row = Mapping[str, Any]
COMMON_KEYS = ("image", "images", "system")
"""Keys that every format reads whole, so that nothing in them is looked for."""


class RowFormat(NamedTuple):
    """A format of rows.

    Attributes:
        read: from the row, its file and row for errors, and where images may come from. It leaves
            the answer out where the row has none.
        keys: that a row of this format has; it is detected by them.
        answer: one of them that holds the answer, which a question may lack; () in conversations.
        more: other keys that it may read, besides `COMMON_KEYS`. What is no text under them is
            searched for images that are not shown.
    """

    read: Callable[[Row, str, ImageSource], Conversation]
    keys: tuple[str, ...]
    answer: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def found_keys(self, row: Row, needs_answer: bool) -> frozenset[str]:
        """The keys by which a row is of this format; none if it is not."""
        if self.read is choices.read_choices:
            return choices.found_keys(row, needs_answer)
        own = (*self.keys, *self.answer, *self.more)
        present = {key for key in own if not is_missing(row.get(key))}
        answers = present.intersection(self.answer)
        if not present.issuperset(self.keys) or (needs_answer and self.answer and not answers):
            return frozenset()
        if not self.keys and not answers:
            return frozenset()
        return frozenset(present)

    def __str__(self) -> str:
        return "+".join((*self.keys, *self.answer[:1]))


FORMATS: dict[str, RowFormat] = {
    "deepseek": RowFormat(read_deepseek, ("conversation",)),
    "openai": RowFormat(read_openai, ("messages",)),
    "llava": RowFormat(read_llava, ("conversations",)),
    "texts": RowFormat(read_texts, ("texts",)),
    "swift": RowFormat(read_swift, ("query",), ("response",), ("history",)),
    "chartqa": RowFormat(read_chartqa, ("query",), ("label",), ("imgname",)),
    "answers": RowFormat(read_answers, ("question",), ("answers",), ("multiple_choice_answer",)),
    "choices": RowFormat(
        choices.read_choices, ("question", "choices"), choices.ANSWER_KEYS, choices.READ_KEYS
    ),
    "question_answer": RowFormat(read_question_answer, ("question",), ("answer",)),
    "caption": RowFormat(read_caption, (), ("caption",), ("prompt", "txt")),
    "prompt_completion": RowFormat(read_prompt_completion, ("prompt",), ("completion",)),
}
"""Format by name. `messages` whose roles begin with a capital letter are the official format's
`conversation`."""

ALIASES = {"scienceqa": "choices"}
"""Format by the name of a data set whose rows have it."""

SCORING_KEYS = ("metric", "options", "dataset_name")
"""Fields of any row that metrics read."""

Format = str
"""A name in `FORMATS` or `ALIASES`, or "auto"."""


def read_row(
    row: Any,
    source: str,
    allowed: ImageSource,
    format: Format = "auto",
    *,
    needs_answer: bool = True,
) -> Conversation:
    """One row as a conversation. Its images are not read yet.

    Args:
        row: what the file holds; a list is taken as the official format.
        source: file and row, for errors.
        allowed: where its images may come from.
        format: a name in `FORMATS`; "auto" detects it from the row's keys.
        needs_answer: whether a question without an answer is an error.

    Raises:
        UserError: an unknown format, the row is not of the format, it says two things, or it holds
            a picture that the format does not read. The message names file, row and field.
    """
    if format not in ("auto", *FORMATS, *ALIASES):
        raise unknown_name("data.format", format, ["auto", *FORMATS, *ALIASES])
    if isinstance(row, list) and row and all(isinstance(message, dict) for message in row):
        row = {"conversation": row}
    if not isinstance(row, dict):
        raise UserError(
            f"{source}: {shown(row)}, expected a JSON object with the keys of a conversation."
        )
    plain = (
        _with_conversation(as_plain_row(row))
        if format in ("auto", "deepseek")
        else as_plain_row(row)
    )
    if format == "auto":
        conversation = _read_detected(plain, source, allowed, needs_answer)
    else:
        name = ALIASES.get(format, format)
        conversation = _read_as(name, plain, source, allowed, needs_answer)
    return replace(conversation, scoring=scoring_fields(row, source))


def scoring_fields(row: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The fields of a row that scoring its answer may need.

    Args:
        row: `metric` names its own metrics (a name, or a list of names), in place of those of the
            data module.
        source: file and row, for errors.

    Raises:
        UserError: `metric` is no text and no list of texts.
    """
    fields = {key: row[key] for key in SCORING_KEYS if row.get(key) is not None}
    if "metric" in fields:
        named = fields["metric"]
        names = [named] if isinstance(named, str) else named
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{source}: metric: {str(named)[:80]}, expected a name of a metric.")
        fields["metric"] = names
    return fields


def _read_as(
    name: str, row: Row, source: str, allowed: ImageSource, needs_answer: bool
) -> Conversation:
    """A row in a format of `FORMATS`."""
    form = FORMATS[name]
    read = {*COMMON_KEYS, *form.keys, *form.answer}
    read |= {key for key in form.more if is_text(row.get(key))}
    try:
        conversation = form.read(row, source, allowed)
    except UnmatchedImages as error:
        refuse_unread(row, read, source, allowed)  # says where the image is that has no place
        raise UserError(str(error)) from None  # the class that workers hand over without traceback
    refuse_unread(row, read, source, allowed, conversation.images)
    if needs_answer and form.answer and conversation.turns[-1].role != "assistant":
        raise UserError(
            f"{source}: no {form.answer[0]!r} (found: {key_names(row)}). Expected an answer: "
            "only questions of data.test may lack one."
        )
    return conversation


def _read_detected(row: Row, source: str, allowed: ImageSource, needs_answer: bool) -> Conversation:
    """A row in the format that its keys fit; of several formats all must give the same."""
    names = _detect(row, needs_answer)
    if not names:
        expected = [f"{form} ({name})" for name, form in FORMATS.items()]
        raise UserError(
            f"{source}: keys {key_names(row)}, expected {' or '.join(expected)}. "
            "Rename the row's keys."
        )
    found = {name: _read_as(name, row, source, allowed, needs_answer) for name in names}
    first = found[names[0]]
    for name, other in found.items():
        if other.turns != first.turns or other.system != first.system:
            raise UserError(
                f"{source}: the row says two things, read by {FORMATS[names[0]]} ({names[0]}) or "
                f"by {FORMATS[name]} ({name}). Remove the keys of one, or set data.format."
            )
    read = {key for name in names for key in FORMATS[name].found_keys(row, needs_answer)}
    refuse_second(row, read, first, source)
    return first


def _detect(row: Row, needs_answer: bool) -> list[str]:
    """Names of the formats that a row's keys fit, without those that read less than another."""
    fits = {name: form.found_keys(row, needs_answer) for name, form in FORMATS.items()}
    fits = {name: keys for name, keys in fits.items() if keys}
    whole: dict[frozenset[str], str] = {}
    for name, keys in fits.items():
        if not any(keys < other for other in fits.values()):
            whole.setdefault(keys, name)
    return list(whole.values())


def _with_conversation(row: Row) -> Row:
    """The row with `messages` in the official format as `conversation`, which is its key here."""
    if "conversation" in row or not is_official(row.get("messages")):
        return row
    return {("conversation" if key == "messages" else key): value for key, value in row.items()}


def is_text(value: Any, depth: int = 0) -> bool:
    """Whether a value is text, a number, or a list of them, as pairs of question and answer are."""
    if isinstance(value, list):
        return depth < 3 and all(is_text(one, depth + 1) for one in value)
    return value is None or isinstance(value, (str, int, float))


def is_missing(value: Any) -> bool:
    """Whether a key has no value: tables fill missing cells with null or ""."""
    return value is None or value in ("", [])
