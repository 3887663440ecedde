"""Figures of sets of answers, the metrics that a recipe names, and the majority baseline."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation, Turn
from dsvl_tune.data.rows import LoadedRows
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.majority_baseline import majority_answers, majority_baseline
from dsvl_tune.evaluation.metrics import Metric, RelaxedAccuracy, find_metrics
from dsvl_tune.evaluation.scoring import aggregate_scores, score_answers


class DistinctWords(Metric):
    """A figure of the whole corpus: what two processes have is not the sum of their parts."""

    name = "distinct_words"

    def score(self, prediction: str, references: Sequence[str]) -> float:
        return float(len(set(prediction.split())))

    def aggregate(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        return float(len({word for text in predictions for word in text.split()}))


def answered(text: str, *references: str, question_type: str = "") -> Answer:
    return Answer(
        source="rows.jsonl:1",
        question_type=question_type,
        question="?",
        references=references,
        text=text,
    )


def asked(question: str, answer: str, question_type: str = "over") -> Conversation:
    turns = (Turn("user", (question,)), Turn("assistant", (answer,)))
    return Conversation(turns, "rows.jsonl:1", question_type=question_type)


def test_the_mean_is_over_types_not_questions() -> None:
    answers = [answered("1", "1", question_type="easy")] * 9
    answers.append(answered("2", "3", question_type="hard"))
    assert aggregate_scores(answers, [RelaxedAccuracy()]) == {
        "relaxed_accuracy": 0.5,
        "relaxed_accuracy/easy": 1.0,
        "relaxed_accuracy/hard": 0.0,
    }


def test_questions_without_a_reference_are_not_scored() -> None:
    answers = [answered("1", "1"), answered("2")]
    metrics = [RelaxedAccuracy(), DistinctWords()]
    scored = score_answers(answers, metrics)
    assert scored[0].scores == {"relaxed_accuracy": 1.0, "distinct_words": 1.0}
    assert scored[1].scores == {}
    assert aggregate_scores(answers, metrics) == {"relaxed_accuracy": 1.0, "distinct_words": 1.0}
    assert aggregate_scores(answers[1:], metrics) == {}


def test_a_metric_of_the_corpus_sees_all_answers_at_once() -> None:
    answers = [answered("red blue", "x"), answered("blue", "y"), answered("blue red", "z")]
    assert [one.scores["distinct_words"] for one in score_answers(answers, [DistinctWords()])] == [
        2.0,
        1.0,
        2.0,
    ]
    assert aggregate_scores(answers, [DistinctWords()]) == {"distinct_words": 2.0}


def test_a_line_of_an_answers_file() -> None:
    (answer,) = score_answers([answered("3", "three", "3")], [RelaxedAccuracy()])
    assert answer.to_json() == {
        "source": "rows.jsonl:1",
        "images": [],
        "question_type": "",
        "question": "?",
        "prompt": "",
        "references": ["three", "3"],
        "answer": "3",
        "complete": True,
        "tokens": 0,
        "scores": {"relaxed_accuracy": 1.0},
    }


def test_metrics_are_named_or_given() -> None:
    strict = RelaxedAccuracy(tolerance=0.0)
    assert find_metrics([strict, DistinctWords()])[0] is strict
    (named,) = find_metrics(["relaxed_accuracy"])
    assert isinstance(named, RelaxedAccuracy)
    assert find_metrics([]) == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["relaxed_acuracy"], "Did you mean 'relaxed_accuracy'"),
        (["my_module.Missing"], "class path"),
        (["relaxed_accuracy", RelaxedAccuracy(0.1)], "two metrics"),
    ],
)
def test_wrong_metrics(given: list[Metric | str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_metrics(given)


def test_the_majority_baseline_uses_what_the_question_says() -> None:
    trained = [asked("over 20?", "yes")] * 3 + [asked("over 80?", "no")] * 2
    test = [asked("over 20?", "yes"), asked("over 80?", "no"), asked("over 50?", "no")]
    assert [answer.text for answer in majority_answers(trained, test)] == ["yes", "no", "yes"]
    baseline = majority_baseline([LoadedRows([trained])], LoadedRows([test]), [RelaxedAccuracy()])
    assert baseline["relaxed_accuracy"] == pytest.approx(2 / 3)


def test_the_majority_baseline_counts_the_same_number_of_rows_of_each_source() -> None:
    many = [[asked("many", "yes", "many")]] * 20
    few = [[asked("few", "no", "few")]] * 2

    def figure(*sources: list[list[Conversation]]) -> float:
        trained = [LoadedRows(rows) for rows in sources]
        baseline = majority_baseline(
            trained, LoadedRows(few[:1]), [RelaxedAccuracy()], counted_rows=4
        )
        return baseline["relaxed_accuracy"]

    assert figure(many, few) == 1.0
    assert figure(many + few) == 0.0
