"""Answers of a model to the rows of a benchmark, generated or chosen by likelihood."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dsvl_tune.core.progress import tqdm
from dsvl_tune.core.types import Conversation, Prompts, Turn
from dsvl_tune.data.encoding.collate import collate_prompts
from dsvl_tune.data.encoding.tokenize import encode_prompt, tokenize
from dsvl_tune.evaluation.answer_log import AnswerLog
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.benchmarks.base import Benchmark
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.benchmarks.shards import Shard
from dsvl_tune.evaluation.blanking import blank_images
from dsvl_tune.evaluation.chat_model import ChatModel
from dsvl_tune.evaluation.generation.batching import batches_by_length, image_groups
from dsvl_tune.evaluation.generation.generate import answer_prompts, prompt_texts
from dsvl_tune.evaluation.generation.likelihood import answer_ids, answer_likelihoods

Scoring = Literal["generation", "likelihood"]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How the rows of a benchmark are answered.

    Attributes:
        batch_size: rows at a time.
        max_new_tokens: longest generated answer.
        scoring: whether answers are generated, or the most likely option is chosen; rows without
            options are generated.
        shard: share of the rows that is answered; None answers all.
        blank: what of the images is blanked, see `Family.blankable_inputs`; None for nothing.
    """

    batch_size: int
    max_new_tokens: int
    scoring: Scoring = "generation"
    shard: Shard | None = None
    blank: str | None = None


@dataclass(frozen=True)
class Question:
    """A row as it is asked.

    Attributes:
        number: of the row.
        conversation: one turn of the user.
        candidates: answers to choose from, by what choosing one answers; {} generates an answer.
    """

    number: int
    conversation: Conversation
    candidates: Mapping[str, str]


def answer_benchmark(
    model: ChatModel,
    benchmark: Benchmark,
    rows: Sequence[BenchmarkRow],
    log: AnswerLog,
    asking: Asking,
) -> dict[int, Answer]:
    """Answer the rows greedily; answers that the log has already are taken from there.

    Args:
        model: that answers.
        benchmark: the benchmark.
        rows: its rows.
        log: where the answers are kept.
        asking: how they are answered.

    Returns:
        The answers by the number of their row; of all rows, or of those that all shards have
        answered so far.

    Raises:
        UserError: an image cannot be read, or a prompt is longer than the model's context.
    """
    questions = [_question(benchmark, row, number, asking) for number, row in enumerate(rows)]
    answers = {answer.number: answer for answer in log.read()}
    log.start()
    batches = _batches(questions, model, asking, set(answers))
    left = sum(map(len, batches))
    label = benchmark.name if asking.blank is None else f"{benchmark.name}, {asking.blank} blanked"
    with tqdm(total=left, desc=label, unit="row") as progress:
        for batch in batches:
            found = _answer([questions[number] for number in batch], model, asking)
            log.append(found)
            answers |= {answer.number: answer for answer in found}
            progress.update(len(found))
    return answers


def _question(benchmark: Benchmark, row: BenchmarkRow, number: int, asking: Asking) -> Question:
    """A row as it is asked."""
    conversation = Conversation((Turn("user", benchmark.parts(row)),), row.source)
    chosen = asking.scoring == "likelihood" and benchmark.candidates is not None
    candidates = benchmark.candidates(row) if chosen and benchmark.candidates else {}
    return Question(number, conversation, candidates)


def _batches(
    questions: Sequence[Question], model: ChatModel, asking: Asking, answered: set[int]
) -> list[list[int]]:
    """Numbers of the rows that are answered together, without those that are answered.

    Raises:
        UserError: a prompt is longer than the model's context.
    """
    shown = [tuple(image.name for image in one.conversation.images) for one in questions]
    ways = [bool(one.candidates) for one in questions]
    groups = image_groups(list(zip(ways, shown, strict=True)))
    if asking.shard is not None:
        groups = asking.shard.take(groups)
    lengths = [
        len(tokenize(one.conversation, model.processor, "generation").input_ids)
        for one in questions
    ]
    batches = []
    for way in (False, True):
        left = [
            [number for number in group if number not in answered]
            for group in groups
            if ways[group[0]] is way
        ]
        batches += batches_by_length([group for group in left if group], lengths, asking.batch_size)
    return batches


def _answer(questions: Sequence[Question], model: ChatModel, asking: Asking) -> list[Answer]:
    """The answers to a batch, all with candidates or all without."""
    since = time.perf_counter()
    prompts = [encode_prompt(one.conversation, model.processor) for one in questions]
    numbers = [one.number for one in questions]
    batch = model.on_device(collate_prompts(prompts, model.processor.pad_id, numbers))
    if asking.blank is not None:
        batch = blank_images(batch, model.processor, asking.blank)
    if questions[0].candidates:
        found = _choose(questions, model, batch)
    else:
        tokenizer = model.processor.tokenizer
        found = answer_prompts(model.network, tokenizer, batch, asking.max_new_tokens)
    seconds = (time.perf_counter() - since) / len(found)
    return [replace(answer, seconds=seconds) for answer in found]


def _choose(questions: Sequence[Question], model: ChatModel, prompts: Prompts) -> list[Answer]:
    """The most likely candidate of each question, the first of equal ones."""
    ids = [
        [answer_ids(one.conversation, text, model.processor) for text in one.candidates.values()]
        for one in questions
    ]
    asked = prompt_texts(model.network, model.processor.tokenizer, prompts)
    found = []
    for row, likelihoods in enumerate(answer_likelihoods(model.network, prompts, ids)):
        by_answer = dict(zip(questions[row].candidates, likelihoods, strict=True))
        found.append(
            Answer(
                source=prompts.sources[row],
                question_type="",
                question=prompts.questions[row],
                references=(),
                text=max(by_answer, key=by_answer.__getitem__),
                images=tuple(prompts.image_names[row]),
                prompt=asked[row],
                number=prompts.numbers[row],
                fields={"likelihoods": by_answer},
            )
        )
    return found
