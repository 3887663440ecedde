"""Row formats of published data sets: their own columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.image_refs import ImageSource
from dsvl_tune.data.formats.messages import (
    Message,
    optional_text,
    required,
    system_messages,
    to_conversation,
)
from dsvl_tune.data.formats.tags import plain_text, text_parts
from dsvl_tune.data.formats.values import shown

CHARTQA_AUTHORS = ("human", "machine")
"""Who wrote a question of ChartQA, by `human_or_machine`."""


def read_chartqa(row: Mapping[str, Any], source: str, allowed: ImageSource) -> Conversation:
    """ChartQA: `query`, `label` (text, or a list with it first), `image` or the files' `imgname`.

    The question type is who wrote the question.
    """
    author = row.get("human_or_machine")
    shown_image = "image" if row.get("image") is not None else "imgname"
    return _question_and_answers(
        {
            **row,
            "image": row.get(shown_image),
            "question_type": CHARTQA_AUTHORS[author] if author in (0, 1) else "",
        },
        "query",
        _texts(row, "label", source, allowed)[:1],
        source,
        allowed,
    )


def read_answers(row: Mapping[str, Any], source: str, allowed: ImageSource) -> Conversation:
    """DocVQA, InfographicVQA, TextVQA, VQAv2: `question`, `image` and `answers`, all accepted.

    The most frequent answer is trained on; of equally frequent ones VQAv2's
    `multiple_choice_answer`, else the first. `references` keep all of them, repeated ones too: VQA
    accuracy counts annotators. VQAv2's answers are objects with an `answer`. The question type is
    the first of DocVQA's `question_types`.
    """
    references = [text.strip() for text in _texts(row, "answers", source, allowed)]
    counts = Counter(references)
    most = max(counts.values(), default=0)
    frequent = [text for text, count in counts.items() if count == most]
    chosen = row.get("multiple_choice_answer")
    trained = [chosen if chosen in frequent else text for text in frequent[:1]]
    types = row.get("question_types")
    is_listed = isinstance(types, list) and bool(types) and isinstance(types[0], str)
    return _question_and_answers(
        {**row, "question_type": types[0] if is_listed and types else row.get("question_type")},
        "question",
        trained,
        source,
        allowed,
        references=references,
    )


def read_question_answer(row: Mapping[str, Any], source: str, allowed: ImageSource) -> Conversation:
    """Columns `question` and `answer`, with `system`, `image` or `images`.

    Without placeholders the images come first.
    """
    answers = []
    if row.get("answer") not in (None, ""):
        text = required(row, "answer", str, source)
        answers = [text_parts(text, f"{source}: answer", allowed)]
    messages = system_messages(row, source, allowed)
    question = required(row, "question", str, source)
    messages.append(Message("user", text_parts(question, f"{source}: question", allowed)))
    messages += [Message("assistant", parts) for parts in answers]
    return to_conversation(row, messages, source, allowed, images_first=True)


def read_caption(row: Mapping[str, Any], source: str, allowed: ImageSource) -> Conversation:
    """An image with its `caption` (a WebDataset's txt); the first of several is trained on.

    The question is the image alone, or the row's `prompt`.
    """
    captions = _texts(row, "caption", source, allowed)
    if any(text not in captions for text in _texts(row, "txt", source, allowed)):
        raise UserError(
            f"{source}: both 'caption' and 'txt', and they differ. Keep the one that is meant."
        )
    prompt = text_parts(optional_text(row, "prompt", source), f"{source}: prompt", allowed)
    messages = [Message("user", prompt)]
    messages += [Message("assistant", [caption]) for caption in captions[:1]]
    conversation = to_conversation(
        row, messages, source, allowed, images_first=True, references=captions
    )
    if not conversation.images:
        raise UserError(f"{source}: a caption without an image. Expected one under 'image'.")
    return conversation


def _question_and_answers(
    row: Mapping[str, Any],
    key: str,
    answers: Sequence[str],
    source: str,
    allowed: ImageSource,
    references: Sequence[str] = (),
) -> Conversation:
    """One question about the image of a row, which comes first unless a placeholder says where.

    Args:
        row: with its image, system prompt and question type.
        key: of the question.
        answers: one, or none.
        source: file and row, for errors.
        allowed: where images may come from.
        references: every accepted answer.
    """
    question = required(row, key, str, source)
    messages = system_messages(row, source, allowed)
    messages.append(Message("user", text_parts(question, f"{source}: {key}", allowed)))
    messages += [Message("assistant", [answer]) for answer in answers]
    return to_conversation(row, messages, source, allowed, images_first=True, references=references)


def _texts(row: Mapping[str, Any], key: str, source: str, allowed: ImageSource) -> list[str]:
    """A text or a list of texts; objects with the text as `answer` are VQAv2's. [] without any."""
    where = f"{source}: {key}"
    value = row.get(key)
    if isinstance(value, Mapping):  # a table's column of objects may be an object of columns
        value = value.get("answer", value)
    values = value if isinstance(value, list) else [value]
    texts = [one.get("answer") if isinstance(one, Mapping) else one for one in values]
    if texts in ([], [None], [""]):
        return []
    found = [text for text in texts if isinstance(text, str)]
    if len(found) < len(texts):
        raise UserError(f"{where}: {shown(value)}, expected text, or a list of texts.")
    return [plain_text(text, where, allowed) for text in found]
