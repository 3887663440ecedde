"""Readers of multiple-choice answers: which option letter does a text choose?

There is no common rule: nine published readers agree on fewer than half of difficult answers. Each
reader has the name of the code whose rule it is, and a figure names its reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Options = Mapping[str, str]
"""Option letter -> text of the option."""

ChoiceReader = Callable[[str, Options], str | None]
"""Reads an option letter out of an answer; None where it finds none."""

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
"""Sentences that VLMEvalKit takes as no answer."""

TAIL_WORDS = 5
"""VLMEvalKit takes a letter only from the last words of an answer."""


def read_vlmevalkit(text: str, options: Options) -> str | None:
    """VLMEvalKit's reader without a judge: `vlmeval/utils/matching_util.py`, `can_infer`.

    A single option letter among the last five words; else "answer is X"; else the single option
    whose text occurs in the answer. "A cat" is read as A.
    """
    if any(sentence in text for sentence in REFUSALS):
        return None
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) > len(words) - TAIL_WORDS:
        return letters[0]
    if not letters and "Z" in words:
        return None
    stated = re.search(r"(?:correct )?answer is \**([A-D])", text, re.IGNORECASE)
    if stated and stated[1].upper() in options:
        return stated[1].upper()
    return _only_option_in(text.lower(), options)


def _only_option_in(text: str, options: Options) -> str | None:
    """The single option whose text occurs in a text that is not much longer than all options."""
    if len(text) > 2 * sum(len(option) for option in options.values()):
        return None
    found = [letter for letter, option in options.items() if option.lower() in text]
    return found[0] if len(found) == 1 else None


def read_mmmu(text: str, options: Options) -> str | None:
    """MMMU's official reader: `mmmu/utils/eval_utils.py`, `parse_multi_choice_response`.

    The last "(A)", else the last " A " between blanks, else the last option text in an answer of
    more than five words. Where it finds nothing, the official code guesses; that is left to the
    caller.
    """
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for form in ("({})", " {} "):
        places = {letter: text.rfind(form.format(letter)) for letter in options}
        found = [letter for letter in options if places[letter] >= 0]
        if found:
            return max(found, key=lambda letter: places[letter])
    if len(text.split()) <= 5:
        return None
    places = {letter: text.lower().rfind(option.lower()) for letter, option in options.items()}
    found = [letter for letter in options if places[letter] >= 0]
    return max(found, key=lambda letter: places[letter]) if found else None


def read_llava(text: str, options: Options) -> str | None:
    """LLaVA's reader for ScienceQA: `llava/eval/eval_science_qa.py`.

    The answer is a letter from A to E, whatever the options are, or begins with "X. ", or has
    "The answer is X." once.
    """
    if re.fullmatch("[A-E]", text) or re.match("[A-E]\\. ", text):
        return text[0]
    stated = re.findall(r"The answer is ([A-Z]).", text)
    return stated[0] if len(stated) == 1 else None


def read_first_character(text: str, options: Options) -> str | None:
    """lmms-eval's reader for SEED-Bench: the first character, in any case."""
    letter = text.strip()[:1].upper()
    return letter if letter in options else None


CHOICE_READERS: dict[str, ChoiceReader] = {
    "vlmevalkit": read_vlmevalkit,
    "mmmu": read_mmmu,
    "llava": read_llava,
    "first_character": read_first_character,
}
"""Reader by name."""
