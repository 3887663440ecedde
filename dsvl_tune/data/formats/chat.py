"""Row formats of conversations: lists of messages, and pairs of question and answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.image_refs import ImageSource, image_ref
from dsvl_tune.data.formats.messages import (
    MESSAGE_KEYS,
    Message,
    message_role,
    message_weight,
    refuse_images_in_message,
    required,
    system_messages,
    to_conversation,
)
from dsvl_tune.data.formats.objects import with_objects
from dsvl_tune.data.formats.tags import ContentPart, text_parts
from dsvl_tune.data.formats.twice import refuse_two
from dsvl_tune.data.formats.unread import refuse_unread
from dsvl_tune.data.formats.values import shown

Row = Mapping[str, Any]

OPENAI_ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
LLAVA_ROLES = {"human": "user", "gpt": "assistant", **OPENAI_ROLES}
DEEPSEEK_ROLES = {"User": "user", "Assistant": "assistant", "System": "system"}
DEEPSEEK_PLACEHOLDER = "<image_placeholder>"
TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of parts with text: OpenAI's chat completions, and its responses."""
IMAGE_PARTS = ("image", "image_url", "input_image")
QUESTION_KEYS = ("user", "human")
ANSWER_KEYS = ("assistant",)
"""Keys of a pair: the_cauldron and its kin have `user`, ms-swift's ShareGPT `human`."""


def read_openai(row: Row, source: str, allowed: ImageSource) -> Conversation:
    """OpenAI's `messages`, whose content is text or parts of type text, image or image_url.

    Text may also hold `<image>` placeholders for the row's `images`, in order, as ms-swift and
    TRL write it; without any the images come first. Anthropic's image parts, with a `source`, are
    read as well, and ms-swift's `objects`. `weight: 0` on an assistant's message leaves it
    unsupervised, as in OpenAI's fine-tuning files; so does ms-swift's `loss: false`.
    """
    row = with_objects(row, source, allowed)
    messages = system_messages(row, source, allowed)
    messages += openai_messages(row, "messages", source, allowed)
    return to_conversation(row, messages, source, allowed, images_first=True)


def read_prompt_completion(row: Row, source: str, allowed: ImageSource) -> Conversation:
    """TRL's `prompt` and `completion`: both text, or both lists of OpenAI's messages."""
    row = with_objects(row, source, allowed)
    messages = system_messages(row, source, allowed)
    for key, role in (("prompt", "user"), ("completion", "assistant")):
        if row.get(key) is None and key == "completion":
            continue
        if isinstance(required(row, key, (str, list), source), str):
            parts = text_parts(row[key], f"{source}: {key}", allowed)
            messages.append(Message(OPENAI_ROLES[role], parts))  # type: ignore[arg-type]
        else:
            messages += openai_messages(row, key, source, allowed)
    return to_conversation(row, messages, source, allowed, images_first=True)


def openai_messages(row: Row, key: str, source: str, allowed: ImageSource) -> list[Message]:
    """The messages under a key."""
    messages = []
    for number, message in enumerate(required(row, key, list, source)):
        where = f"{source}: {key}[{number}]"
        refuse_images_in_message(message, where)
        role = message_role(message, "role", OPENAI_ROLES, where)
        content = required(message, "content", (str, list), where)
        refuse_two(message, "content", "value", where)
        refuse_unread(message, MESSAGE_KEYS, where, allowed)
        parts: list[ContentPart] = []
        if isinstance(content, str):
            parts = text_parts(content, f"{where}.content", allowed)
        else:
            for index, part in enumerate(content):
                parts += content_part(part, f"{where}.content[{index}]", allowed)
        messages.append(Message(role, parts, message_weight(message, where)))
    return messages


def content_part(part: Any, where: str, allowed: ImageSource) -> list[ContentPart]:
    """One part of a message. A key that is null counts as missing: tables give parts all keys."""
    name = required(part, "type", str, where)
    if name in TEXT_PARTS:
        refuse_unread(part, ("text",), where, allowed)
        return text_parts(required(part, "text", str, where), f"{where}.text", allowed)
    if name not in IMAGE_PARTS:
        known = [*TEXT_PARTS, *IMAGE_PARTS]
        raise UserError(f"{where}.type: {unknown_name('part type', name, known)}")
    key = "image_url" if name == "input_image" else name
    if name == "image" and isinstance(part.get("source"), dict):
        refuse_unread(part, ("source",), where, allowed)
        return [image_ref(anthropic_image(part["source"], where), allowed, where)]
    if name == "image" and part.get("image") is None and part.get("image_url") is not None:
        key = "image_url"
    refuse_unread(part, (key,), where, allowed)
    if key == "image":
        return [None if part.get("image") is None else image_ref(part["image"], allowed, where)]
    url = required(part, key, (str, dict), where)
    if isinstance(url, dict):
        refuse_unread(url, ("url",), f"{where}.{key}", allowed)
        url = required(url, "url", str, f"{where}.{key}")
    return [image_ref(url, allowed, where)]


def anthropic_image(given: Mapping[str, Any], where: str) -> str:
    """The image in the `source` of an Anthropic part: base64, or the URL of one."""
    where = f"{where}.source"
    name = required(given, "type", str, where)
    if name == "base64":
        data = required(given, "data", str, where)
        return f"data:{given.get('media_type')};base64,{data}"
    if name == "url":
        url: str = required(given, "url", str, where)
        return url
    raise UserError(f"{where}.type: {unknown_name('source', name, ('base64', 'url'))}")


def read_llava(row: Row, source: str, allowed: ImageSource) -> Conversation:
    """LLaVA's and ShareGPT's `conversations`: `from` human or gpt, `value` with `<image>` tags.

    Pairs under this key are read, too, see `read_pairs`.
    """
    if is_pairs(row.get("conversations")):
        return read_pairs(row, source, allowed, "conversations")
    row = with_objects(row, source, allowed)
    messages = system_messages(row, source, allowed)
    for number, message in enumerate(required(row, "conversations", list, source)):
        where = f"{source}: conversations[{number}]"
        refuse_images_in_message(message, where)
        role = message_role(message, "from", LLAVA_ROLES, where)
        text = required(message, "value", str, where)
        refuse_two(message, "value", "content", where)
        refuse_unread(message, MESSAGE_KEYS, where, allowed)
        parts = text_parts(text, f"{where}.value", allowed)
        messages.append(Message(role, parts, message_weight(message, where)))
    return to_conversation(row, messages, source, allowed)


def read_deepseek(row: Row, source: str, allowed: ImageSource) -> Conversation:
    """The official DeepSeek-VL format: roles User and Assistant, each message with its `images`.

    The list of messages is the row itself, or its `conversation`. The content has an
    `<image_placeholder>` for each image of the message. A `conversation` of pairs is read, too,
    see `read_pairs`.
    """
    key = "conversation"
    if is_pairs(row.get(key)):
        return read_pairs(row, source, allowed, key)
    messages = system_messages(row, source, allowed)
    images: list[Any] = []
    for number, message in enumerate(required(row, key, list, source)):
        where = f"{source}: {key}[{number}]"
        role = message_role(message, "role", DEEPSEEK_ROLES, where)
        content = required(message, "content", str, where)
        refuse_two(message, "content", "value", where)
        refuse_unread(message, (*MESSAGE_KEYS, "images"), where, allowed)
        parts = text_parts(content, f"{where}.content", allowed, DEEPSEEK_PLACEHOLDER)
        messages.append(Message(role, parts, message_weight(message, where)))
        listed = required({"images": [], **message}, "images", list, where)
        if len(listed) != parts.count(None):
            raise UserError(
                f"{where}: {parts.count(None)} image placeholder(s) in the content, but "
                f"{len(listed)} image(s) are listed. Write one {DEEPSEEK_PLACEHOLDER} where each "
                "image is shown."
            )
        images += listed
    refuse_row_images(row, source)
    return to_conversation({**row, "images": images, "image": None}, messages, source, allowed)


def refuse_row_images(row: Row, source: str) -> None:
    """Raise if the row lists images that the official format has in its messages."""
    for key in ("image", "images"):
        if row.get(key) not in (None, [], ""):
            raise UserError(
                f"{source}: no image is read from {key!r}. List it in the 'images' of its message."
            )


def read_texts(row: Row, source: str, allowed: ImageSource) -> Conversation:
    """the_cauldron, Docmatix, FineVision: `images`, and `texts` of pairs."""
    return read_pairs(row, source, allowed, "texts")


def is_pairs(value: Any) -> bool:
    """Whether a list holds pairs of question and answer instead of messages."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and any(key in first for key in (*QUESTION_KEYS, *ANSWER_KEYS))


def read_pairs(row: Row, source: str, allowed: ImageSource, key: str) -> Conversation:
    """Pairs of `user` or `human` and `assistant` under a key. Without a tag the images come first.

    Args:
        row: the row.
        source: file and row, for errors.
        allowed: where images may come from.
        key: of the list.
    """
    messages = system_messages(row, source, allowed)
    for number, pair in enumerate(required(row, key, list, source)):
        where = f"{source}: {key}[{number}]"
        refuse_two(pair, *QUESTION_KEYS, where)
        for names, role in ((QUESTION_KEYS, "user"), (ANSWER_KEYS, "assistant")):
            name = next((one for one in names if isinstance(pair, dict) and one in pair), names[0])
            is_last = number == len(row[key]) - 1
            if role == "assistant" and is_last and isinstance(pair, dict) and not pair.get(name):
                continue
            parts = text_parts(required(pair, name, str, where), f"{where}.{name}", allowed)
            messages.append(Message(OPENAI_ROLES[role], parts))  # type: ignore[arg-type]
        refuse_unread(pair, (*QUESTION_KEYS, *ANSWER_KEYS), where, allowed)
    return to_conversation(row, messages, source, allowed, images_first=True)


def read_swift(row: Row, source: str, allowed: ImageSource) -> Conversation:
    """ms-swift's `query` and `response`, with `system`, `history` (pairs), `images` and `objects`.

    Without placeholders the images come first.
    """
    row = with_objects(row, source, allowed)
    messages = system_messages(row, source, allowed)
    history = required({"history": row.get("history") or []}, "history", list, source)
    for number, pair in enumerate(history):
        where = f"{source}: history[{number}]"
        if not isinstance(pair, list) or not all(isinstance(text, str) for text in pair):
            raise UserError(
                f"{where}: {shown(pair)}, expected a question and an answer, both text."
            )
        messages += question_and_answer(pair, where, allowed)
    response = row.get("response")
    last = [required(row, "query", str, source)]
    if response not in (None, ""):
        last.append(required(row, "response", str, source))
    messages += question_and_answer(last, source, allowed, has_answer=len(last) == 2)
    return to_conversation(row, messages, source, allowed, images_first=True)


def question_and_answer(
    pair: Sequence[str], where: str, allowed: ImageSource, has_answer: bool = True
) -> list[Message]:
    """The messages of a pair of texts.

    Raises:
        UserError: it is no pair.
    """
    if len(pair) != (2 if has_answer else 1):
        raise UserError(f"{where}: {shown(pair)}, expected a question and an answer, both text.")
    messages = [Message("user", text_parts(pair[0], where, allowed))]
    if has_answer:
        messages.append(Message("assistant", text_parts(pair[1], where, allowed)))
    return messages


def is_official(messages: Any) -> bool:
    """Whether the first role is written as the official DeepSeek-VL code writes it."""
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, dict) and str(first.get("role"))[:20] in DEEPSEEK_ROLES
