"""Questions with options: ScienceQA, A-OKVQA, MMBench, SEED-Bench, AI2D, MMMU and their like.

All of them are read alike: hint, question, lettered options; the letter of the right one is trained
on. They differ in where the options are and in how the answer is given.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.image_refs import ImageSource
from dsvl_tune.data.formats.messages import (
    IMAGE_KEYS,
    Message,
    filled_keys,
    required,
    system_messages,
    to_conversation,
)
from dsvl_tune.data.formats.tags import text_parts
from dsvl_tune.data.formats.values import shown

LIST_KEYS = ("choices", "options")
COLUMN_FORMS = ("{}", "choice_{}", "option_{}", "choice{}", "option{}")
"""Columns that hold an option each, with a letter or a number from 1 (MMBench: A, B, C, D)."""
ANSWER_KEYS = ("answer", "correct_choice_idx", "correct_option", "label")
OPTION_COLUMNS = tuple(
    form.format(mark)
    for form in COLUMN_FORMS
    for marks in (ascii_uppercase[:10], ascii_uppercase[:10].lower(), "123456789")
    for mark in marks
    if not (form == "{}" and (mark.isdigit() or mark.islower()))
)
NUMBERED_IMAGES = tuple(f"image_{number}" for number in range(1, 10))
"""MMMU's and BLINK's image columns."""
READ_KEYS = (*LIST_KEYS, *ANSWER_KEYS, *OPTION_COLUMNS, *NUMBERED_IMAGES, "hint")
INSTRUCTION = "Answer with the letter of the choice."
NO_ANSWER = ("?", "nan")
"""How test splits write an answer that is not published."""
MAX_LIST_CHARACTERS = 100_000
"""Longest list that a text may hold (MMMU's options)."""
LETTER = re.compile(r"\(?([A-Za-z])[).]?")


def found_keys(row: Mapping[str, Any], needs_answer: bool) -> frozenset[str]:
    """The keys by which a row is a question with options; none if it is not.

    Args:
        row: of any format.
        needs_answer: whether a row without an answer is not.
    """
    if not isinstance(row.get("question"), str):
        return frozenset()
    options = [key for key in LIST_KEYS if row.get(key) is not None]
    for form in COLUMN_FORMS:
        columns = option_columns(row, form)
        options += columns if len(columns) > 1 else []
    answers = answer_keys(row)
    if not options or (needs_answer and not answers):
        return frozenset()
    return frozenset(("question", *options, *filled_keys(row, ANSWER_KEYS)))


def read_choices(row: Mapping[str, Any], source: str, allowed: ImageSource) -> Conversation:
    """`question` with `choices` or `options`, or a column for each, and an answer.

    The options are a list, a list written as text (MMMU), an object by letter, or the columns A, B,
    C, D (MMBench), choice_a, ... (SEED-Bench). The answer is a letter, the text of an option, or a
    number from 0 (ScienceQA's `answer`, A-OKVQA's `correct_choice_idx`). `hint` comes first. Images
    are `image`, `images`, or `image_1`, `image_2`, ..., which `<image 1>` points to in question and
    options; without a tag they come first. `image` may be null: about half of ScienceQA's rows have
    none. The question type is `question_type`, or ScienceQA's `subject`.
    """
    options = [option_text(one, source) for one in find_options(row, source)]
    question = required(row, "question", str, source)
    lines = [hint(row, source), question]
    if options:
        lettered = zip(ascii_uppercase, options, strict=False)
        lines += ["\n".join(f"{letter}. {option}" for letter, option in lettered), INSTRUCTION]
    text = "\n".join(line for line in lines if line)
    answer, references = find_answer(row, options, source)
    messages = system_messages(row, source, allowed)
    messages.append(Message("user", text_parts(text, f"{source}: question", allowed)))
    if answer is not None:
        messages.append(Message("assistant", [answer]))
    given = row.get("question_type") or row.get("subject") or ""
    return to_conversation(
        {**image_columns(row, source), "question_type": given},
        messages,
        source,
        allowed,
        images_first=True,
        references=references,
    )


def hint(row: Mapping[str, Any], source: str) -> str:
    """The hint of a question; MMBench's tables have "nan" where there is none."""
    value = row.get("hint")
    if value is None or value == "nan" or (isinstance(value, float) and math.isnan(value)):
        return ""
    text: str = required(row, "hint", str, source)
    return text


def image_columns(row: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The row's images: its `image` or `images`, or `image_1`, `image_2`, ... as `images`.

    Raises:
        UserError: both, or a number is left out.
    """
    numbered = filled_keys(row, NUMBERED_IMAGES)
    if not numbered:
        return {"image": row.get("image"), "images": row.get("images")}
    if filled_keys(row, IMAGE_KEYS):
        raise UserError(
            f"{source}: both 'image' and {numbered[0]!r}. Keep the ones that are meant."
        )
    if numbered != list(NUMBERED_IMAGES[: len(numbered)]):
        raise UserError(f"{source}: {numbered[-1]!r}, but not all of the images before it.")
    return {"images": [row[key] for key in numbered]}


# Options


def find_options(row: Mapping[str, Any], source: str) -> list[Any]:
    """The options; [] for MMMU's open questions, whose list is empty.

    Raises:
        UserError: none, several lists of them, a gap, or more than there are letters.
    """
    given = [as_list(row[key], f"{source}: {key}") for key in LIST_KEYS if row.get(key) is not None]
    for form in COLUMN_FORMS:
        columns = option_columns(row, form)
        if len(columns) > 1:
            given.append([row.get(column) for column in columns])
    if not given:
        raise UserError(f"{source}: no options. Expected 'choices', 'options', or A, B, ...")
    if any(options != given[0] for options in given):
        raise UserError(f"{source}: its options are given twice, and differ. Keep one list.")
    if len(given[0]) > len(ascii_uppercase):
        raise UserError(f"{source}: {len(given[0])} options, more than there are letters.")
    return given[0]


def option_columns(row: Mapping[str, Any], form: str) -> list[str]:
    """The columns of a form that hold options, from the first to the last that is filled."""
    found: list[str] = []
    for marks in (ascii_uppercase[:10], ascii_uppercase[:10].lower(), "123456789"):
        columns = [form.format(mark) for mark in marks]
        if form == "{}" and not marks.isupper():
            continue
        filled = [is_filled(row.get(column)) for column in columns]
        if sum(filled) > 1:
            found = columns[: len(filled) - filled[::-1].index(True)]
    return found


def is_filled(value: Any) -> bool:
    """Whether a cell of a table holds an option."""
    is_nan = value == "nan" or (isinstance(value, float) and math.isnan(value))
    return value is not None and value != "" and not is_nan


def as_list(value: Any, where: str) -> list[Any]:
    """A list of options, however it is written.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, str) and value.strip().startswith("["):
        value = parse_list(value, where)
    if isinstance(value, Mapping) and {"text", "label"} <= value.keys():  # ARC, OpenBookQA
        value = value["text"]
    if isinstance(value, Mapping) and all(is_filled(one) for one in value.values()):
        letters = list(ascii_uppercase[: len(value)])
        if [str(key).upper() for key in value] == letters:
            value = list(value.values())
    if not isinstance(value, list):
        raise UserError(f"{where}: {shown(value)}, expected a list of options.")
    return value


def parse_list(text: str, where: str) -> list[Any]:
    """The list that a text holds as Python or JSON writes it (MMMU's `options`).

    Raises:
        UserError: it holds none.
    """
    try:
        value = ast.literal_eval(text) if len(text) <= MAX_LIST_CHARACTERS else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise UserError(f"{where}: {shown(text)}, expected a list of options.")
    return value


def option_text(option: Any, source: str) -> str:
    """An option as text."""
    if (
        isinstance(option, bool)
        or not isinstance(option, (str, int, float))
        or not is_filled(option)
    ):
        raise UserError(f"{source}: {shown(option)} among the options, expected text.")
    if isinstance(option, int) and option.bit_length() > 200:
        raise UserError(f"{source}: {shown(option)} among the options, expected text.")
    return str(option)


# Answers


def answer_keys(row: Mapping[str, Any]) -> list[str]:
    """The keys under which a row has its answer."""
    return [key for key in filled_keys(row, ANSWER_KEYS) if row[key] not in NO_ANSWER]


def find_answer(
    row: Mapping[str, Any], options: Sequence[str], source: str
) -> tuple[str | None, Sequence[str]]:
    """What is trained on, and every accepted answer to an open question.

    Returns:
        The letter, or the text of an open question's answer; None without an answer.

    Raises:
        UserError: it is none of the options, or two keys give different ones.
    """
    keys = answer_keys(row)
    if not options:
        answers = open_answers(row, keys, source)
        return (answers[0] if answers else None), answers
    found = {letter_of(row[key], options, f"{source}: {key}") for key in keys}
    if len(found) > 1:
        raise UserError(f"{source}: {' and '.join(keys)} give different answers. Keep one.")
    return (found.pop() if found else None), ()


def open_answers(row: Mapping[str, Any], keys: Sequence[str], source: str) -> list[str]:
    """The answers to a question without options.

    Raises:
        UserError: two keys give different ones.
    """
    given = []
    for key in keys:
        value = row[key]
        if isinstance(value, str) and value.strip().startswith("["):
            value = parse_list(value, f"{source}: {key}")
        answers = value if isinstance(value, list) else [value]
        given.append([option_text(answer, source) for answer in answers])
    if any(answers != given[0] for answers in given):
        raise UserError(f"{source}: {' and '.join(keys)} give different answers. Keep one.")
    return given[0] if given else []


def letter_of(answer: Any, options: Sequence[str], where: str) -> str:
    """The letter of the right option.

    Raises:
        UserError: none of the options is meant, or it is not clear which.
    """
    letters = ascii_uppercase[: len(options)]
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    meant = set()
    if isinstance(answer, int) and not isinstance(answer, bool):
        meant |= {letters[answer]} if 0 <= answer < len(options) else set()
    elif isinstance(answer, str):
        text = answer.strip()
        letter = LETTER.fullmatch(text)
        if letter and letter[1].upper() in letters:
            meant.add(letter[1].upper())
        if text.isdecimal() and len(text) < 4 and int(text) < len(options):
            meant.add(letters[int(text)])
        meant |= {letters[i] for i, option in enumerate(options) if option.strip() == text}
    if len(meant) != 1:
        raise UserError(
            f"{where} {shown(answer)} of {len(options)} choices. Expected the letter of a choice, "
            "its text, or its number from 0" + (", and only one that fits." if meant else ".")
        )
    return meant.pop()
