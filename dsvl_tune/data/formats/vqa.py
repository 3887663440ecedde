"""Row formats of published data sets: their own columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.image_refs import ImageSource
from dsvl_tune.data.formats.messages import (
    Message,
    optional_text,
    required,
    split_placeholders,
    to_conversation,
)

CHARTQA_AUTHORS = ("human", "machine")
"""Who wrote a question of ChartQA, by `human_or_machine`."""


def read_chartqa(row: Mapping[str, Any], source: str, allowed: ImageSource) -> Conversation:
    """ChartQA: `query`, `label` (text, or a list with it first), `image` or the files' `imgname`.

    The question type is who wrote the question.
    """
    label = required(row, "label", (str, list), source)
    author = row.get("human_or_machine")
    return _question_and_answer(
        required(row, "query", str, source),
        label if isinstance(label, str) else _texts(label, f"{source}: label")[0],
        image=row["image"] if row.get("image") is not None else row.get("imgname"),
        question_type=CHARTQA_AUTHORS[author] if author in (0, 1) else "",
        source=source,
        allowed=allowed,
    )


def read_answers(row: Mapping[str, Any], source: str, allowed: ImageSource) -> Conversation:
    """DocVQA, InfographicVQA, TextVQA: `question`, `image` and `answers`, all of them accepted.

    The most frequent answer is trained on, the first of equally frequent ones. `references` keep
    all of them, repeated ones too: VQA accuracy counts annotators. The question type is the first
    of DocVQA's `question_types`.
    """
    answers = required(row, "answers", list, source)
    references = [text.strip() for text in _texts(answers, f"{source}: answers")]
    types = row.get("question_types") or [""]
    is_listed = isinstance(types, list) and isinstance(types[0], str)
    return _question_and_answer(
        required(row, "question", str, source),
        Counter(references).most_common(1)[0][0],
        references=references,
        image=row["image"] if row.get("image") is not None else row.get("images"),
        question_type=types[0] if is_listed else "",
        source=source,
        allowed=allowed,
    )


def read_scienceqa(row: Mapping[str, Any], source: str, allowed: ImageSource) -> Conversation:
    """ScienceQA: `hint`, `question`, lettered `choices`; the letter of `answer` is trained on.

    `answer` counts from 0. `image` may be null: about half of the rows have none. The question
    type is the `subject`.
    """
    choices = required(row, "choices", list, source)
    number = required(row, "answer", int, source)
    if not 0 <= number < len(choices) <= len(ascii_uppercase):
        raise UserError(
            f"{source}: answer {number} of {len(choices)} choices. Expected the number of a "
            "choice, from 0."
        )
    lettered = zip(ascii_uppercase, choices, strict=False)
    lines = [
        optional_text(row, "hint", source),
        required(row, "question", str, source),
        "\n".join(f"{letter}. {choice}" for letter, choice in lettered),
        "Answer with the letter of the choice.",
    ]
    return _question_and_answer(
        "\n".join(line for line in lines if line),
        ascii_uppercase[number],
        image=row.get("image"),
        question_type=row.get("subject") or "",
        source=source,
        allowed=allowed,
    )


def read_caption(row: Mapping[str, Any], source: str, allowed: ImageSource) -> Conversation:
    """An image with its `caption` (a WebDataset's txt); the first of several is trained on.

    The question is the image alone, or the row's `prompt`.
    """
    caption = required(row, "caption", (str, list), source)
    captions = [caption] if isinstance(caption, str) else _texts(caption, f"{source}: caption")
    messages = [
        Message("user", split_placeholders(optional_text(row, "prompt", source))),
        Message("assistant", [captions[0]]),
    ]
    conversation = to_conversation(
        row, messages, source, allowed, images_first=True, references=captions
    )
    if not conversation.images:
        raise UserError(f"{source}: a caption without an image. Expected one under 'image'.")
    return conversation


def _question_and_answer(
    question: str,
    answer: str,
    *,
    image: Any,
    question_type: Any,
    source: str,
    allowed: ImageSource,
    references: Sequence[str] = (),
) -> Conversation:
    """One question about the image of a row, which comes first unless a placeholder says where."""
    messages = [
        Message("user", split_placeholders(question)),
        Message("assistant", [answer]),
    ]
    return to_conversation(
        {"image": image, "question_type": question_type},
        messages,
        source,
        allowed,
        images_first=True,
        references=references,
    )


def _texts(values: list[Any], where: str) -> list[str]:
    """A list that must hold at least one text and nothing else."""
    if not values or not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}: {str(values)[:80]}, expected a list with at least one text.")
    return values
