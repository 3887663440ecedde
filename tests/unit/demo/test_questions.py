from __future__ import annotations

import random
import re
from collections import Counter, defaultdict

import pytest

from dsvl_tune.core.types import Conversation
from dsvl_tune.demo.charts import chart_row
from dsvl_tune.demo.questions import VALUES, Item, ask, over
from dsvl_tune.demo.scenes import scene_row
from dsvl_tune.demo.text_tables import table_row

ROWS = 600


def texts(conversation: Conversation) -> tuple[str, str]:
    question, answer = conversation.turns[0].parts[-1], conversation.turns[1].parts[0]
    assert isinstance(question, str) and isinstance(answer, str)
    return question, answer


def parse_table(question: str) -> tuple[list[str], dict[str, int], str]:
    table, _, rest = question.partition(". ")
    pairs = re.findall(r"([a-z]+)(\d+)", table)
    return [name for name, _ in pairs], {name: int(value) for name, value in pairs}, rest


def expected_answer(question: str) -> str | None:
    """Answers worked out from the written table alone, by other code than the generator's."""
    names, values, text = parse_table(question)
    ranked = sorted(names, key=values.__getitem__)
    fixed = {
        "Which goes furthest?": ranked[-1],
        "Which goes least far?": ranked[0],
        "Which stands at the near end?": names[0],
        "Which stands at the far end?": names[-1],
        "How many are there?": ["", "", "two", "three", "four", "five", "six"][len(names)],
    }
    if text in fixed:
        return fixed[text]
    if found := re.fullmatch(r"Read (\w+)\.", text):
        return str(values[found[1]])
    if found := re.fullmatch(r"Which reads (\d+)\?", text):
        return next(name for name in names if values[name] == int(found[1]))
    if found := re.fullmatch(r"Which goes further, (\w+) or (\w+)\?", text):
        return found[1] if values[found[1]] > values[found[2]] else found[2]
    if found := re.fullmatch(r"Is (\w+) ahead of or behind (\w+)\?", text):
        return "ahead" if values[found[1]] > values[found[2]] else "behind"
    if found := re.fullmatch(r"Is (\w+) past or short of (\d+)\?", text):
        return "past" if values[found[1]] > int(found[2]) else "short"
    if found := re.fullmatch(r"Which follows (\w+)\?", text):
        return names[names.index(found[1]) + 1]
    if found := re.fullmatch(r"Which precedes (\w+)\?", text):
        return names[names.index(found[1]) - 1]
    return None


def test_table_answers_follow_from_the_table() -> None:
    for seed in range(100):
        for conversation in table_row(seed, "test", questions=20):
            question, answer = texts(conversation)
            assert expected_answer(question) == answer, question


@pytest.mark.parametrize("kind", ["compare", "over"])
def test_a_yes_no_question_gives_nothing_away(kind: str) -> None:
    yes: dict[str, list[bool]] = defaultdict(list)
    for seed in range(3 * ROWS):
        for conversation in chart_row(seed, "train"):
            if conversation.question_type == kind:
                question, answer = texts(conversation)
                yes["all"].append(answer == "yes")
                for word in re.findall(r"over \d+", question) + re.findall(
                    r"Is (?:the value of )?the \w+", question
                ):
                    yes[word].append(answer == "yes")
    assert len(yes["all"]) > 1000
    for word, answers in yes.items():  # within four standard errors of a fair coin
        assert abs(sum(answers) / len(answers) - 0.5) < 2 / len(answers) ** 0.5, (
            word,
            len(answers),
        )


def test_thresholds_are_between_the_elements() -> None:
    items = [Item("red", 20), Item("blue", 50)]
    asked = [over(random.Random(seed), items) for seed in range(99)]
    assert {fact[0]["t"] for fact in asked if fact} == {"25", "35", "45"}


def test_types_are_asked_equally_often_and_never_twice() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(100):
        row = chart_row(seed, "test", questions=7)
        assert len({texts(conversation)[0] for conversation in row}) == len(row) == 7
        kinds.update(conversation.question_type for conversation in row)
    assert set(kinds.values()) == {100}


def test_asking_stops_where_questions_run_out() -> None:
    conversations = scene_row(1, "test", questions=1000)
    assert 10 <= len(conversations) < 100
    assert ask(random.Random(0), [Item("red", 10), Item("blue", 90)], (), 5) == []
    assert VALUES[0] == 10 and VALUES[-1] == 90
