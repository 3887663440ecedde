"""What packing saves: padding and CPU seconds of a step on sequences of mixed lengths.

    python benchmarks/speed/packing.py [STEPS]

The model is random, SigLIP only, with 576 tokens per image, a decoder of 2 layers of width 256 and
a tiny tower. A micro-batch has 8 sequences: every other one has an image, questions and answers
have 10 to 80 words. The contenders get the same rows in turns; ratios are of the same rows. The
printed losses are equal.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from dsvl_tune.core.types import Batch, Conversation, ImageRef, Turn
from dsvl_tune.data.encoding.batches import make_sample
from dsvl_tune.data.encoding.collate import collate, normalize_images
from dsvl_tune.data.encoding.packing import pack
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import apply_plan
from dsvl_tune.models.finetuning.plan import fit_plan, make_plan
from dsvl_tune.training.objectives.supervised import supervised_loss

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from conftest import GOLDEN, write_image_settings

CONTENDERS = {
    "plain, dense mask": None,
    "plain, causal": None,
    "packed to longest": 1,
    "packed to 1024": 1024,
    "packed to 2048": 2048,
}
"""Tokens of a packed row by contender; a row is as long as its longest sample at least."""


def build(folder: Path) -> None:
    """Write the random checkpoint."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(GOLDEN / "siglip" / "checkpoint")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_placeholder>"]})
    text = {"model_type": "llama", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 688}
    vision = {
        "model_type": "siglip_vision_model",
        "image_size": 96,
        "patch_size": 4,
        "hidden_size": 64,
    }
    config = AutoConfig.for_model(
        "deepseek_vl",
        text_config={
            **text,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 4096,
        },
        vision_config={
            **vision,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "vision_use_head": False,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
    )
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_image_settings(folder, "deepseek_vl")
    settings = folder / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace("32", "96"))


def rows(step: int) -> list[list[Conversation]]:
    """Eight rows of one conversation each, the same for the same step."""
    draw = random.Random(step)

    def words() -> str:
        return " ".join(
            draw.choices(["bar", "line", "axis", "value"], k=int(10 * 8 ** draw.random()))
        )

    def row(number: int) -> list[Conversation]:
        picture = ImageRef(Image.new("RGB", (50, 40), (number * 20, 0, 0)), f"{number}")
        parts = (picture, words()) if number % 2 else (words(),)
        return [Conversation((Turn("user", parts), Turn("assistant", (words(),))), f"row {number}")]

    return [row(number) for number in range(8)]


def padding(batch: Batch) -> float:
    """Ratio of padding in the batch."""
    return float((batch.branch_ids < 0).float().mean())


class Figures(NamedTuple):
    """What the steps of a contender took.

    Attributes:
        cpu_s: CPU seconds of each step.
        padding: ratio of padding of each step's batch.
        losses: of each step.
    """

    cpu_s: list[float]
    padding: list[float]
    losses: list[float]


def run_step(model: PreTrainedModel, batch: Batch, figures: Figures) -> None:
    """Run the forward and backward pass of a batch, and add its figures."""
    start = time.process_time()
    loss = supervised_loss(model, batch).loss
    loss.backward()
    figures.cpu_s.append(time.process_time() - start)
    figures.padding.append(padding(batch))
    figures.losses.append(loss.item())


def print_figures(found: dict[str, Figures]) -> None:
    """Print a line for each contender, its ratio that of the same steps."""
    plain = found["plain, causal"].cpu_s
    for name, figures in found.items():
        ratio = statistics.median(a / b for a, b in zip(figures.cpu_s, plain, strict=True))
        padded = f"padding {100 * statistics.mean(figures.padding):4.1f} %"
        spent = f"{statistics.median(figures.cpu_s):5.2f} CPU s  {ratio:.2f} x plain, causal"
        print(f"{name:18} {padded}  {spent}  loss {sum(figures.losses):.4f}")


def main() -> None:
    """Train the contenders in turns, and print."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        checkpoint = open_checkpoint(Path(folder))
        model, processor = create_model(checkpoint).train(), checkpoint.processor
    apply_plan(model, fit_plan(make_plan(DEEPSEEK_VL, "lora", None), model, set()))
    found = {name: Figures([], [], []) for name in CONTENDERS}
    for step in range(-1, steps):
        for name, pack_tokens in CONTENDERS.items():
            samples = [make_sample(row, processor, None, "error") for row in rows(step)]
            if pack_tokens is not None:
                samples = pack(samples, pack_tokens)
            batch = normalize_images(collate(samples, processor.pad_id), processor)
            if name == "plain, dense mask":
                batch.segment_ids += 1  # counted from 1, the batch does not qualify for no mask
            warms_up = step < 0
            run_step(model, batch, Figures([], [], []) if warms_up else found[name])
    print_figures(found)


if __name__ == "__main__":
    main()
