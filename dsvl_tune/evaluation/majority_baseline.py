"""The majority baseline: what a model that never looks at the image could score."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from dsvl_tune.core.types import Conversation
from dsvl_tune.data.rows import Rows
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.evaluation.scoring import aggregate_scores


def majority_baseline(
    sources: Sequence[Rows],
    test: Rows,
    metrics: Sequence[Metric],
    *,
    counted_rows: int = 2000,
) -> dict[str, float]:
    """Figures of the best constant answers to the questions of the test rows.

    Args:
        sources: training rows of each source; the answers are counted on their first ones.
        test: rows whose questions are answered.
        metrics: what is measured.
        counted_rows: most training rows that are counted, over all sources.

    Returns:
        As `aggregate_scores`; {} where no test question has an answer.
    """
    limit = counted_rows // len(sources)
    trained = (conversation for rows in sources for row in rows.head(limit) for conversation in row)
    asked = [conversation for row in test for conversation in row if conversation.accepted_answers]
    if not asked:
        return {}
    return aggregate_scores(majority_answers(trained, asked), metrics)


def majority_answers(
    trained: Iterable[Conversation], asked: Iterable[Conversation]
) -> list[Answer]:
    """The best constant answer to each question, given all that the question itself says.

    For each question text this is its most frequent answer in the training data; for a text
    that is not there, the most frequent answer of its question type. It is counted on other
    data than it is scored on: the best constants of the scored questions themselves would be
    flattered by every rare question.

    Args:
        trained: conversations that end in an answer.
        asked: conversations whose last question is answered.
    """
    by_text: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    by_type: dict[str, Counter[str]] = defaultdict(Counter)
    for conversation in trained:
        answer = conversation.turns[-1].text
        by_text[conversation.question_type, conversation.question][answer] += 1
        by_type[conversation.question_type][answer] += 1

    def most_frequent(question_type: str, question: str) -> str:
        answers = by_text.get((question_type, question)) or by_type.get(question_type)
        return answers.most_common(1)[0][0] if answers else ""

    return [
        Answer(
            source=conversation.source,
            question_type=conversation.question_type,
            question=conversation.question,
            references=conversation.accepted_answers,
            text=most_frequent(conversation.question_type, conversation.question),
            fields=conversation.scoring,
        )
        for conversation in asked
    ]
