"""Formats of rows. Each is one function from a row to a Conversation and one line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.image_refs import Home, image_ref
from dsvl_tune.data.formats.messages import (
    Part,
    begin,
    build,
    check_keys,
    check_message,
    known,
    split_text,
    take,
    take_weight,
)
from dsvl_tune.data.formats.vqa import read_answers, read_caption, read_chartqa, read_scienceqa

Row = Mapping[str, Any]


def read_openai(row: Row, source: str, home: Home) -> Conversation:
    """OpenAI's `messages`: content is text, or parts of type text, image (a path) and image_url (a path or data: URL).

    Text may also hold `<image>` placeholders for the row's `images`, in order, as ms-swift and TRL write it.
    `weight: 0` on an assistant's message leaves it unsupervised, as in OpenAI's fine-tuning files; ms-swift's
    `loss: false` does the same.
    """
    messages = begin(row, source)
    for number, message in enumerate(take(row, "messages", list, source)):
        where = f"{source}: messages[{number}]"
        check_message(message, where)
        role = known(
            take(message, "role", str, where), {name: name for name in ROLES}, f"{where}.role"
        )
        content = take(message, "content", (str, list), where)
        if isinstance(content, str):
            parts = split_text(content)
        else:
            parts = [
                p
                for i, part in enumerate(content)
                for p in read_part(part, f"{where}.content[{i}]", home)
            ]
        messages.append((role, parts, take_weight(message, where)))
    return build(row, messages, source, home)


def read_llava(row: Row, source: str, home: Home) -> Conversation:
    """LLaVA's and ShareGPT's `conversations`: `from` human or gpt, `value` with an `<image>` for each of the images."""
    messages = begin(row, source)
    for number, message in enumerate(take(row, "conversations", list, source)):
        where = f"{source}: conversations[{number}]"
        check_message(message, where)
        role = known(take(message, "from", str, where), LLAVA_ROLES, f"{where}.from")
        messages.append(
            (role, split_text(take(message, "value", str, where)), take_weight(message, where))
        )
    return build(row, messages, source, home)


def read_deepseek(row: Row, source: str, home: Home) -> Conversation:
    """The official DeepSeek-VL form: role User or Assistant, content with `<image_placeholder>`, the message's images.

    The list stands alone as a row, or under the key `conversation` or `messages`.
    """
    key = "conversation" if "conversation" in row else "messages"
    messages = begin(row, source)
    images: list[Any] = []
    for number, message in enumerate(take(row, key, list, source)):
        where = f"{source}: {key}[{number}]"
        role = known(take(message, "role", str, where), DEEPSEEK_ROLES, f"{where}.role")
        parts = split_text(take(message, "content", str, where), "<image_placeholder>")
        messages.append((role, parts, take_weight(message, where)))
        shown = take({"images": [], **message}, "images", list, where)
        if len(shown) != parts.count(None):
            raise UserError(
                f"{where}: {parts.count(None)} image placeholder(s) in the content, {len(shown)} image(s) beside it. "
                "Expected as many of one as of the other: write one <image_placeholder> where each image is shown."
            )
        images += shown
    return build({**row, "images": images, "image": None}, messages, source, home)


def read_swift(row: Row, source: str, home: Home) -> Conversation:
    """ms-swift's `query` and `response`, `system`, `history` (pairs), `images`; without tags these come first."""
    messages = begin(row, source)
    history = take({**row, "history": row.get("history") or []}, "history", list, source)
    for number, pair in enumerate([*history, [row.get("query"), row.get("response")]]):
        where = f"{source}: history[{number}]" if number < len(history) else source
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(text, str) for text in pair)
        ):
            raise UserError(
                f"{where}: {str(pair)[:80]}, expected a question and an answer, both text."
            )
        messages += [("user", split_text(pair[0]), 1.0), ("assistant", split_text(pair[1]), 1.0)]
    return build(row, messages, source, home, images_first=True)


def read_question_answer(row: Row, source: str, home: Home) -> Conversation:
    """Columns `question` and `answer`, with `system`, `image` or `images`; without placeholders images come first."""
    messages = begin(row, source)
    messages.append(("user", split_text(take(row, "question", str, source)), 1.0))
    messages.append(("assistant", split_text(take(row, "answer", str, source)), 1.0))
    return build(row, messages, source, home, images_first=True)


ROLES = ("system", "user", "assistant")
LLAVA_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "user": "user",
    "assistant": "assistant",
    "system": "system",
}
DEEPSEEK_ROLES = {"User": "user", "Assistant": "assistant", "System": "system"}

Reader = Callable[[Row, str, Home], Conversation]
Format = Literal[
    "auto",
    "openai",
    "llava",
    "deepseek",
    "swift",
    "question_answer",
    "chartqa",
    "answers",
    "scienceqa",
    "caption",
]

# Name -> (the keys that a row of this format has, its reader). Told from the keys, the first that fits is taken; of
# `messages` the roles' capital letters tell the official form from OpenAI's.
FORMATS: dict[str, tuple[tuple[str, ...], Reader]] = {
    "deepseek": (("conversation",), read_deepseek),
    "openai": (("messages",), read_openai),
    "llava": (("conversations",), read_llava),
    "swift": (("query", "response"), read_swift),
    "chartqa": (("query", "label"), read_chartqa),
    "answers": (("question", "answers"), read_answers),
    "scienceqa": (("question", "choices", "answer"), read_scienceqa),
    "question_answer": (("question", "answer"), read_question_answer),
    "caption": (("caption",), read_caption),
}


def read_row(row: Any, source: str, home: Home, format: Format = "auto") -> Conversation:
    """One row as a conversation. Its images are not read yet.

    Args:
        row: what the file holds; a list is taken as the official form.
        source: file and row, for errors.
        home: where its images may come from.
        format: a name in `FORMATS`; "auto" tells it from the row's keys.

    Raises:
        UserError: the row is not of the format. The message names file, row and field.
    """
    if isinstance(row, list) and row and all(isinstance(message, dict) for message in row):
        row = {"conversation": row}
    if not isinstance(row, dict):
        raise UserError(
            f"{source}: {type(row).__name__}, expected a JSON object with the keys of a conversation."
        )
    if format != "auto":
        return FORMATS[format][1](row, source, home)
    present = {key for key, value in row.items() if value is not None}
    for keys, reader in FORMATS.values():
        if present.issuperset(keys):
            official = keys == ("messages",) and is_official(row["messages"])
            return (read_deepseek if official else reader)(row, source, home)
    expected = " or ".join(f"{'+'.join(keys)} ({name})" for name, (keys, _) in FORMATS.items())
    found = (
        ", ".join(f"{key!r}{' (null)' if value is None else ''}" for key, value in row.items())
        or "none"
    )
    raise UserError(f"{source}: keys {found}, expected {expected}. Rename the row's keys.")


def is_official(messages: Any) -> bool:
    """Whether the first role is written as the official DeepSeek-VL code writes it."""
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, dict) and str(first.get("role")) in DEEPSEEK_ROLES


def read_part(part: Any, where: str, home: Home) -> list[Part]:
    """One part of an OpenAI message. Keys that are null are as good as absent: tables give every part all keys."""
    kinds = {name: name for name in ("text", "image", "image_url")}
    kind = known(take(part, "type", str, where), kinds, f"{where}.type")
    if kind == "text":
        return split_text(take(part, "text", str, where))
    if kind == "image":
        check_keys(part, ("path", "url", "base64"), where)
        return [None] if part.get("image") is None else [image_ref(part["image"], home, where)]
    url = take(part, "image_url", (str, dict), where)
    return [
        image_ref(
            url if isinstance(url, str) else take(url, "url", str, f"{where}.image_url"),
            home,
            where,
        )
    ]
