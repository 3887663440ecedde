"""Answers of a model to the rows of a benchmark."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from dsvl_tune.core.types import Conversation, Turn
from dsvl_tune.data.encoding.collate import collate_prompts
from dsvl_tune.data.encoding.tokenize import encode_prompt, tokenize
from dsvl_tune.evaluation.answer_log import AnswerLog
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.benchmarks.base import Benchmark
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow
from dsvl_tune.evaluation.chat_model import ChatModel
from dsvl_tune.evaluation.generation.batching import batches_by_length, image_groups
from dsvl_tune.evaluation.generation.generate import answer_prompts


def benchmark_conversation(benchmark: Benchmark, row: BenchmarkRow) -> Conversation:
    """A row as one turn of the user."""
    return Conversation((Turn("user", benchmark.parts(row)),), row.source)


def answer_benchmark(
    model: ChatModel,
    benchmark: Benchmark,
    rows: Sequence[BenchmarkRow],
    log: AnswerLog,
    *,
    batch_size: int,
    max_new_tokens: int,
) -> list[Answer]:
    """Answer every row greedily; answers that the log has already are taken from there.

    Args:
        model: that answers.
        benchmark: the benchmark.
        rows: its rows.
        log: where the answers are kept.
        batch_size: rows that are answered at a time.
        max_new_tokens: longest answer.

    Returns:
        In the order of the rows.

    Raises:
        UserError: an image cannot be read, or a prompt is longer than the model's context.
    """
    conversations = [benchmark_conversation(benchmark, row) for row in rows]
    answers = {answer.number: answer for answer in log.read()}
    log.start()
    with tqdm(total=len(rows), initial=len(answers), desc=benchmark.name, unit="row") as progress:
        for numbers in _batches(conversations, model, batch_size, set(answers)):
            since = time.perf_counter()
            prompts = [encode_prompt(conversations[number], model.processor) for number in numbers]
            batch = model.on_device(collate_prompts(prompts, model.processor.pad_id, numbers))
            found = answer_prompts(model.network, model.processor.tokenizer, batch, max_new_tokens)
            seconds = (time.perf_counter() - since) / len(found)
            found = [replace(answer, seconds=seconds) for answer in found]
            log.append(found)
            answers |= {answer.number: answer for answer in found}
            progress.update(len(found))
    return [answers[number] for number in range(len(rows))]


def _batches(
    conversations: Sequence[Conversation], model: ChatModel, batch_size: int, answered: set[int]
) -> list[list[int]]:
    """Numbers of the rows that are answered together.

    Raises:
        UserError: a prompt is longer than the model's context.
    """
    names = [tuple(image.name for image in one.images) for one in conversations]
    lengths = [
        len(tokenize(conversation, model.processor, "generation").input_ids)
        for conversation in conversations
    ]
    left = [[n for n in group if n not in answered] for group in image_groups(names)]
    return batches_by_length([group for group in left if group], lengths, batch_size)
