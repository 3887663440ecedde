"""Row formats by name: each is a function from a row to a Conversation, and a line of `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.image_refs import ImageSource, image_ref
from dsvl_tune.data.formats.messages import (
    ContentPart,
    Message,
    message_role,
    message_weight,
    refuse_image_keys,
    refuse_images_in_message,
    required,
    split_placeholders,
    system_messages,
    to_conversation,
)
from dsvl_tune.data.formats.vqa import read_answers, read_caption, read_chartqa, read_scienceqa

Row = Mapping[str, Any]

OPENAI_ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
LLAVA_ROLES = {"human": "user", "gpt": "assistant", **OPENAI_ROLES}
DEEPSEEK_ROLES = {"User": "user", "Assistant": "assistant", "System": "system"}
DEEPSEEK_PLACEHOLDER = "<image_placeholder>"
OPENAI_PART_TYPES = ("text", "image", "image_url")


def read_openai(row: Row, source: str, allowed: ImageSource) -> Conversation:
    """OpenAI's `messages`, whose content is text or parts of type text, image or image_url.

    Text may also hold `<image>` placeholders for the row's `images`, in order, as ms-swift and
    TRL write it. `weight: 0` on an assistant's message leaves it unsupervised, as in OpenAI's
    fine-tuning files; so does ms-swift's `loss: false`.
    """
    messages = system_messages(row, source)
    for number, message in enumerate(required(row, "messages", list, source)):
        where = f"{source}: messages[{number}]"
        refuse_images_in_message(message, where)
        role = message_role(message, "role", OPENAI_ROLES, where)
        content = required(message, "content", (str, list), where)
        parts: list[ContentPart] = []
        if isinstance(content, str):
            parts = split_placeholders(content)
        else:
            for index, part in enumerate(content):
                parts += _openai_part(part, f"{where}.content[{index}]", allowed)
        messages.append(Message(role, parts, message_weight(message, where)))
    return to_conversation(row, messages, source, allowed)


def _openai_part(part: Any, where: str, allowed: ImageSource) -> list[ContentPart]:
    """One part of a message. A key that is null counts as missing: tables give parts all keys."""
    name = required(part, "type", str, where)
    if name not in OPENAI_PART_TYPES:
        raise UserError(f"{where}.type: {unknown_name('part type', name, OPENAI_PART_TYPES)}")
    if name == "text":
        return split_placeholders(required(part, "text", str, where))
    if name == "image":
        refuse_image_keys(part, ("path", "url", "base64"), where)
        return [None if part.get("image") is None else image_ref(part["image"], allowed, where)]
    url = required(part, "image_url", (str, dict), where)
    if isinstance(url, dict):
        url = required(url, "url", str, f"{where}.image_url")
    return [image_ref(url, allowed, where)]


def read_llava(row: Row, source: str, allowed: ImageSource) -> Conversation:
    """LLaVA's and ShareGPT's `conversations`: `from` human or gpt, `value` with `<image>` tags."""
    messages = system_messages(row, source)
    for number, message in enumerate(required(row, "conversations", list, source)):
        where = f"{source}: conversations[{number}]"
        refuse_images_in_message(message, where)
        role = message_role(message, "from", LLAVA_ROLES, where)
        parts = split_placeholders(required(message, "value", str, where))
        messages.append(Message(role, parts, message_weight(message, where)))
    return to_conversation(row, messages, source, allowed)


def read_deepseek(row: Row, source: str, allowed: ImageSource) -> Conversation:
    """The official DeepSeek-VL format: roles User and Assistant, each message with its `images`.

    The list of messages is the row itself, or its `conversation` or `messages`. The content has
    an `<image_placeholder>` for each image of the message.
    """
    key = "conversation" if "conversation" in row else "messages"
    messages = system_messages(row, source)
    images: list[Any] = []
    for number, message in enumerate(required(row, key, list, source)):
        where = f"{source}: {key}[{number}]"
        role = message_role(message, "role", DEEPSEEK_ROLES, where)
        content = required(message, "content", str, where)
        parts = split_placeholders(content, DEEPSEEK_PLACEHOLDER)
        messages.append(Message(role, parts, message_weight(message, where)))
        shown = required({"images": [], **message}, "images", list, where)
        if len(shown) != parts.count(None):
            raise UserError(
                f"{where}: {parts.count(None)} image placeholder(s) in the content, but "
                f"{len(shown)} image(s) are listed. Write one {DEEPSEEK_PLACEHOLDER} where each "
                "image is shown."
            )
        images += shown
    return to_conversation({**row, "images": images, "image": None}, messages, source, allowed)


def read_swift(row: Row, source: str, allowed: ImageSource) -> Conversation:
    """ms-swift's `query` and `response`, with `system`, `history` (pairs) and `images`.

    Without placeholders the images come first.
    """
    messages = system_messages(row, source)
    history = required({"history": row.get("history") or []}, "history", list, source)
    for number, pair in enumerate([*history, [row.get("query"), row.get("response")]]):
        where = f"{source}: history[{number}]" if number < len(history) else source
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise UserError(
                f"{where}: {str(pair)[:80]}, expected a question and an answer, both text."
            )
        question, answer = pair
        messages.append(Message("user", split_placeholders(question)))
        messages.append(Message("assistant", split_placeholders(answer)))
    return to_conversation(row, messages, source, allowed, images_first=True)


def read_question_answer(row: Row, source: str, allowed: ImageSource) -> Conversation:
    """Columns `question` and `answer`, with `system`, `image` or `images`.

    Without placeholders the images come first.
    """
    messages = system_messages(row, source)
    question = required(row, "question", str, source)
    answer = required(row, "answer", str, source)
    messages.append(Message("user", split_placeholders(question)))
    messages.append(Message("assistant", split_placeholders(answer)))
    return to_conversation(row, messages, source, allowed, images_first=True)


class RowFormat(NamedTuple):
    """A format of rows.

    Attributes:
        keys: that a row of this format has; it is detected by them.
        read: from the row, its file and row for errors, and where images may come from.
    """

    keys: tuple[str, ...]
    read: Callable[[Row, str, ImageSource], Conversation]


FORMATS: dict[str, RowFormat] = {
    "deepseek": RowFormat(("conversation",), read_deepseek),
    "openai": RowFormat(("messages",), read_openai),
    "llava": RowFormat(("conversations",), read_llava),
    "swift": RowFormat(("query", "response"), read_swift),
    "chartqa": RowFormat(("query", "label"), read_chartqa),
    "answers": RowFormat(("question", "answers"), read_answers),
    "scienceqa": RowFormat(("question", "choices", "answer"), read_scienceqa),
    "question_answer": RowFormat(("question", "answer"), read_question_answer),
    "caption": RowFormat(("caption",), read_caption),
}
"""Format by name. The first whose keys a row has is detected; `messages` whose roles begin with a
capital letter are the official format's."""

Format = str
"""A name in `FORMATS`, or "auto"."""


def read_row(row: Any, source: str, allowed: ImageSource, format: Format = "auto") -> Conversation:
    """One row as a conversation. Its images are not read yet.

    Args:
        row: what the file holds; a list is taken as the official format.
        source: file and row, for errors.
        allowed: where its images may come from.
        format: a name in `FORMATS`; "auto" detects it from the row's keys.

    Raises:
        UserError: an unknown format, or the row is not of the format. The message names file,
            row and field.
    """
    if format != "auto" and format not in FORMATS:
        raise unknown_name("data.format", format, ["auto", *FORMATS])
    if isinstance(row, list) and row and all(isinstance(message, dict) for message in row):
        row = {"conversation": row}
    if not isinstance(row, dict):
        raise UserError(
            f"{source}: {type(row).__name__}, expected a JSON object with the keys of a "
            "conversation."
        )
    found = _detect(row, source) if format == "auto" else format
    return FORMATS[found].read(row, source, allowed)


def _detect(row: dict[str, Any], source: str) -> str:
    """Name of the format that a row's keys fit."""
    present = {key for key, value in row.items() if value is not None}
    for name, (keys, _) in FORMATS.items():
        if present.issuperset(keys):
            return "deepseek" if name == "openai" and _is_official(row["messages"]) else name
    expected = [f"{'+'.join(keys)} ({name})" for name, (keys, _) in FORMATS.items()]
    given = [f"{key!r}{' (null)' if value is None else ''}" for key, value in row.items()]
    raise UserError(
        f"{source}: keys {', '.join(given) or 'none'}, expected {' or '.join(expected)}. "
        "Rename the row's keys."
    )


def _is_official(messages: Any) -> bool:
    """Whether the first role is written as the official DeepSeek-VL code writes it."""
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, dict) and str(first.get("role")) in DEEPSEEK_ROLES
