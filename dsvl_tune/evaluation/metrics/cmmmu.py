"""The official rule of CMMMU (arXiv 2401.11944): CMMMU-Benchmark/CMMMU, `eval/eval_script.py`.

Choices may have several letters, statements are true or false (对, 错), and blanks are filled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.base import Counts, Metric, UnreadableReference, ratio
from dsvl_tune.evaluation.metrics.mmmu import TRIVIAL, shortest

CHOICE, STATEMENT, BLANK = "选择", "判断", "填空"
"""Question types."""
STATEMENT_INDICATORS = ("是", "为", "所以", "判断", "陈述", "说法", "表达", "答案", "结果")
BLANK_INDICATORS = ("是", "为", "所以", "等于", "方案", "选择", "因此", "最后", "答案", "结果")
"""What the interesting end of a sentence follows; of the last one "=", too, in a blank."""
POSITIVE = ("正确", "对", "准确", "肯定")
NEGATIVE = ("错", "不合适", "否定")
"""The official list has "不对", "不正确" and "不准确", too, which hold a positive word and count as
positive, as that is tested first."""
AMBIGUOUS = ("对错", "否正确", "或者", "是否", "正确性", "对不")
_NUMBERS = (
    r"-?\d{1,3}(?:，\d{3})+",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+)(?![eE][+-]?\d+)(?!，\d)",
)

Candidate = str | float


class CMMMU(Metric):
    """Share of right answers (0..1), and the share that could not be read.

    A row has its `type`, and a choice its `options` by letter. The official code guesses where it
    reads no letter or neither true nor false; here that is wrong, and counted.
    """

    name = "cmmmu"
    percent = True
    opposite_figures = frozenset({"unread"})

    def score(self, prediction: str, references: Sequence[str]) -> float:
        """A text alone does not say what is expected."""
        raise UnreadableReference("the row has no type, expected 选择, 判断 or 填空")

    def score_answer(self, answer: Answer) -> float:
        question_type = answer.fields.get("type")
        if question_type == BLANK:
            return float(any(_fills(answer.text, one) for one in answer.references))
        if question_type not in (CHOICE, STATEMENT):
            return self.score(answer.text, answer.references)
        _check_references(answer)
        return float(read_closed(answer.text, answer.fields) in answer.references)

    def counts(self, answers: Sequence[Answer], scores: Sequence[float]) -> Counts:
        unread = [
            answer.fields["type"] != BLANK and read_closed(answer.text, answer.fields) is None
            for answer in answers
        ]
        return {**super().counts(answers, scores), "unread": np.array(unread, np.float64)}

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {**super().figures(sums), "unread": ratio(sums["unread"], sums["answers"])}


def _check_references(answer: Answer) -> None:
    """Raise where a reference of a choice or a statement could never be right.

    Raises:
        UnreadableReference: it has another letter than the options', or is neither 对 nor 错.
    """
    is_choice = answer.fields["type"] == CHOICE
    allowed = list(answer.fields.get("options") or {}) if is_choice else ["对", "错"]
    for reference in answer.references:
        known = set(reference) <= set(allowed) if is_choice else reference in allowed
        if not known:
            raise UnreadableReference(f"reference {reference!r}, expected {' or '.join(allowed)}")


def read_closed(text: str, fields: Mapping[str, Any]) -> str | None:
    """The letters of a choice, or 对 or 错 of a statement; None where nothing is read."""
    if fields["type"] == CHOICE:
        return read_letters(text, fields.get("options") or {})
    return read_statement(text)


def read_letters(text: str, options: Mapping[str, str]) -> str | None:
    """The letters named most often: as "(A)", else anywhere, else by the texts of the options."""
    for mark in ",.!?;:'":
        text = text.strip(mark)
    forms: tuple[Callable[[str], str], ...] = (
        lambda letter: f"({letter})",
        lambda letter: letter,
        lambda letter: options[letter],
    )
    for form in forms:
        counts = {letter: text.count(form(letter)) for letter in options}
        most = max(counts.values(), default=0)
        if most:
            return "".join(letter for letter in options if counts[letter] == most)
    return None


def read_statement(text: str) -> str | None:
    """对 or 错, whichever more of the sentences' ends say; None if neither is ahead."""
    ends = set(_sentence_ends(text, STATEMENT_INDICATORS, STATEMENT_INDICATORS))
    clear = [end for end in ends if not any(word in end for word in AMBIGUOUS)]
    positive = [end for end in clear if any(word in end for word in POSITIVE)]
    negative = [end for end in clear if end not in positive and any(w in end for w in NEGATIVE)]
    if len(positive) == len(negative):
        return None
    return "对" if len(positive) > len(negative) else "错"


def blank_candidates(prediction: str, reference: str) -> list[Candidate]:
    """The texts and numbers that the answer to a blank may mean, with regard to the reference."""
    ends = _sentence_ends(prediction, BLANK_INDICATORS, (*BLANK_INDICATORS, "="))
    numbers = [
        number for end in ends for pattern in _NUMBERS for number in re.findall(pattern, end)
    ]
    found = [one for text in [*ends, *numbers] for one in _normalize(text, reference)]
    return list(dict.fromkeys(found))


def _fills(prediction: str, reference: str) -> bool:
    """Whether a candidate matches: texts as substrings, numbers as equals."""
    expected = _normalize(reference, reference)
    return any(
        candidate in expected
        if isinstance(candidate, float)
        else any(isinstance(one, str) and one in candidate for one in expected)
        for candidate in blank_candidates(prediction, reference)
    )


def _sentence_ends(text: str, indicators: Sequence[str], last: Sequence[str]) -> list[str]:
    """The shortest end of each sentence after an indicator; the whole answer if none has one.

    Args:
        text: the answer.
        indicators: of all sentences but the last.
        last: indicators of the last sentence.
    """
    text = text.strip("。").strip()
    sentences = re.split(r"。|\n", text)
    ends = []
    for number, sentence in enumerate(sentences, 1):
        words = last if number == len(sentences) else indicators
        end = shortest([sentence.split(word)[-1].strip() for word in words if word in sentence])
        if end and end not in TRIVIAL:
            ends.append(end)
    return ends or [text]


def _normalize(text: str, reference: str) -> list[Candidate]:
    """A number rounded to two places; a text unless it is much longer than the reference."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        pass
    is_long = len(text) > len(reference) + 20
    return [] if is_long or _letters(text) > _letters(reference) + 2 else [text]


def _letters(text: str) -> int:
    """Number of Latin letters from A to Z."""
    return len(re.findall("[A-Za-z]", text))
