"""Greedy answers to eight questions an image: shared prefixes, compared with transformers.

    OMP_NUM_THREADS=1 python benchmarks/speed/answering.py [ROUNDS]

The random model "proportions" of `rig_inputs.py` (576 tokens an image), float32; 4 charts with 8
questions each in one batch, answers of 16 tokens. Prints CPU seconds (medians of ROUNDS, default 3)
and what part of theirs ours are, for two contenders: transformers' `generate` with each distinct
image encoded once, and plain `generate`, which gets the image of every question. The answers of all
are compared token by token.
"""

from __future__ import annotations

import sys
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from contest import compare
from rig_inputs import VOCABULARY, messages, square_charts, write_checkpoint
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.types import Prompts
from dsvl_tune.data.encoding.collate import collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.evaluation.generation.generate import generate_ids, greedy_ids
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model

IMAGES, QUESTIONS, TOKENS = 4, 8, 16


def model_and_prompts(folder: Path) -> tuple[PreTrainedModel, Prompts]:
    """The model, and a batch of all questions."""
    charts = list(islice(square_charts(4), IMAGES))
    texts = [turn["content"] for row in charts for one in row for turn in messages(one)]
    write_checkpoint(folder, VOCABULARY["proportions"], texts)
    checkpoint = open_checkpoint(folder)
    asked = [one for row in charts for one in row * (QUESTIONS // 4)]
    encoded = [encode_prompt(one, checkpoint.processor) for one in asked]
    prompts = collate_prompts(encoded, checkpoint.processor.pad_id)
    return create_model(checkpoint).eval(), normalize_images(prompts, checkpoint.processor)


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


def main() -> None:
    """Compare in turns and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with TemporaryDirectory() as folder:
        model, prompts = model_and_prompts(Path(folder))
    ours = greedy_ids(model, prompts, TOKENS)
    contenders = {
        "generate, each distinct image once": partial(generate_ids, model, prompts, TOKENS),
        "generate, the image of every question": partial(plain_generate, model, prompts),
    }
    for name, answer in contenders.items():
        assert torch.equal(answer(), ours), f"{name}: other answers"
        answer_ours = partial(greedy_ids, model, prompts, TOKENS)
        theirs_s, ours_s, ratio = compare(answer, answer_ours, rounds)
        print(f"{name}: {theirs_s:.2f} CPU s, ours {ours_s:.2f}: {1 / ratio:.3f} of it", flush=True)


if __name__ == "__main__":
    main()
