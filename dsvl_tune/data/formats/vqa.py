"""Rows of published data sets by their own columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.image_refs import Home
from dsvl_tune.data.formats.messages import Message, build, split_text, take

CHARTQA_KINDS = ("human", "machine")


def read_chartqa(row: Mapping[str, Any], source: str, home: Home) -> Conversation:
    """ChartQA: `query`, `label` (text, or a list of it of which the first is meant), `image` or the files' `imgname`.

    The question type is who asked: `human_or_machine`, 0 or 1.
    """
    label = take(row, "label", (str, list), source)
    answer = label if isinstance(label, str) else first_text(label, f"{source}: label")
    asked_by = row.get("human_or_machine")
    kind = CHARTQA_KINDS[asked_by] if asked_by in (0, 1) else ""
    image = row.get("image") if row.get("image") is not None else row.get("imgname")
    return ask(
        take(row, "query", str, source),
        answer,
        {"image": image, "question_type": kind},
        source,
        home,
    )


def read_answers(row: Mapping[str, Any], source: str, home: Home) -> Conversation:
    """DocVQA's and TextVQA's columns: `question`, `image`, and `answers` of which the most frequent is supervised.

    Of equally frequent ones it is the first. The question type is the first of DocVQA's `question_types`.
    """
    answers = take(row, "answers", list, source)
    first_text(answers, f"{source}: answers")
    answer = Counter(str(one).strip() for one in answers).most_common(1)[0][0]
    types = row.get("question_types") or [""]
    kind = types[0] if isinstance(types, list) and isinstance(types[0], str) else ""
    image = row["image"] if row.get("image") is not None else row.get("images")
    return ask(
        take(row, "question", str, source),
        answer,
        {"image": image, "question_type": kind},
        source,
        home,
    )


def read_scienceqa(row: Mapping[str, Any], source: str, home: Home) -> Conversation:
    """ScienceQA: `hint`, `question` and lettered `choices`; the letter of `answer` (from 0) is supervised.

    `image` may be null: about half of the rows have none. The question type is the `subject`.
    """
    choices = take(row, "choices", list, source)
    number = take(row, "answer", int, source)
    if not 0 <= number < len(choices) <= len(ascii_uppercase):
        raise UserError(
            f"{source}: answer {number} of {len(choices)} choices. Expected a number from 0 below theirs."
        )
    options = "\n".join(
        f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)
    )
    parts = [
        take({**row, "hint": row.get("hint") or ""}, "hint", str, source),
        take(row, "question", str, source),
        options,
        "Answer with the letter of the choice.",
    ]
    more = {"image": row.get("image"), "question_type": row.get("subject") or ""}
    return ask("\n".join(filter(None, parts)), ascii_uppercase[number], more, source, home)


def read_caption(row: Mapping[str, Any], source: str, home: Home) -> Conversation:
    """A picture with its `caption` (a WebDataset's txt), of several the first; the question is the picture alone.

    A `prompt` is asked beside it.
    """
    caption = take(row, "caption", (str, list), source)
    text = caption if isinstance(caption, str) else first_text(caption, f"{source}: caption")
    prompt = take({**row, "prompt": row.get("prompt") or ""}, "prompt", str, source)
    messages: list[Message] = [("user", split_text(prompt), 1.0), ("assistant", [text], 1.0)]
    conversation = build(row, messages, source, home, images_first=True)
    if not conversation.images:
        raise UserError(f"{source}: a caption without an image. Expected 'image' beside it.")
    return conversation


def ask(
    question: str, answer: str, row: Mapping[str, Any], source: str, home: Home
) -> Conversation:
    """One question about the row's image; placeholder strings in it are text that the template refuses."""
    messages: list[Message] = [("user", split_text(question), 1.0), ("assistant", [answer], 1.0)]
    return build(row, messages, source, home, images_first=True)


def first_text(values: list[Any], where: str) -> str:
    """The first of a list that must hold text."""
    if not values or not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}: {str(values)[:80]}, expected a list with at least one text.")
    first: str = values[0]
    return first
