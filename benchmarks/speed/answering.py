"""Greedy answers to eight questions an image: prompt trees, compared with transformers' generate.

    OMP_NUM_THREADS=1 python benchmarks/speed/answering.py MODEL [ROUNDS]

MODEL is "proportions" (the random model of `rig_models.py`, 576 tokens an image) or "embedded"; 4
charts with 8 questions each, float32, answers of at most 16 tokens. The contenders, in turns:

    batched          generate on all 32 questions, each distinct image encoded once
    batched, pixels  generate on all 32 questions, given the image of every question
    one at a time    generate on one question after the other

Prints their CPU seconds and what part of these ours are: median and range of ROUNDS (default 3).
The answers of all are compared token by token.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from contest import cpu_seconds
from rig_inputs import messages, square_charts
from rig_models import write_checkpoint
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.types import Prompts
from dsvl_tune.data.encoding.collate import collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.evaluation.generation.generate import generate_ids, greedy_ids
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model

IMAGES, QUESTIONS, TOKENS = 4, 8, 16


def model_and_prompts(name: str, folder: Path) -> tuple[PreTrainedModel, Prompts, list[Prompts]]:
    """The model, a batch of all questions, and each of them alone."""
    charts = list(islice(square_charts(4), IMAGES))
    if name != "embedded":
        texts = [turn["content"] for row in charts for one in row for turn in messages(one)]
        write_checkpoint(folder, name, texts)
    checkpoint = open_checkpoint("embedded" if name == "embedded" else folder)
    processor = checkpoint.processor
    asked = [one for row in charts for one in row * (QUESTIONS // 4)]
    encoded = [encode_prompt(one, processor) for one in asked]
    batch, *alone = (
        normalize_images(collate_prompts(prompts, processor.pad_id), processor)
        for prompts in (encoded, *([one] for one in encoded))
    )
    return create_model(checkpoint).eval(), batch, alone


@torch.no_grad()
def plain_generate(model: PreTrainedModel, prompts: Prompts) -> Tensor:
    """transformers' own way: the image of every question as pixels."""
    ids: Tensor = model.generate(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        **{name: pixels[prompts.image_index] for name, pixels in prompts.vision_inputs.items()},
        max_new_tokens=TOKENS,
        do_sample=False,
    )
    return ids[:, prompts.input_ids.shape[1] :]


def one_at_a_time(model: PreTrainedModel, alone: list[Prompts]) -> Tensor:
    """`plain_generate` on each question, padded as in a batch."""
    rows = [plain_generate(model, one)[0] for one in alone]
    padding = model.generation_config.pad_token_id
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)


def main() -> None:
    """Compare in turns and print."""
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with TemporaryDirectory() as folder:
        model, batch, alone = model_and_prompts(sys.argv[1], Path(folder))
    ours = partial(greedy_ids, model, batch, TOKENS)
    contenders: dict[str, Callable[[], Tensor]] = {
        "batched": partial(generate_ids, model, batch, TOKENS),
        "batched, pixels": partial(plain_generate, model, batch),
        "one at a time": partial(one_at_a_time, model, alone),
    }
    answers = ours()
    for name, answer in contenders.items():
        assert torch.equal(answer(), answers), f"{name}: other answers"
    times: dict[str, list[float]] = {name: [] for name in contenders}
    ratios: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        own = cpu_seconds(ours)
        for name, answer in contenders.items():
            theirs = cpu_seconds(answer)
            times[name].append(theirs)
            ratios[name].append(own / theirs)
    for name, found in ratios.items():
        print(
            f"{name}: {median(times[name]):.2f} CPU s; ours {median(found):.3f} of it "
            f"({min(found):.3f} to {max(found):.3f})"
        )


if __name__ == "__main__":
    main()
