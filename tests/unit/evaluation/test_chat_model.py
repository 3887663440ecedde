"""Answers about images from Python: the golden ones, from files and from memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

import dsvl_tune
from dsvl_tune.families.deepseek_vl.tokenizer import read_tokenizer

GOLDEN = Path(__file__).parents[2] / "golden"
QUESTION = "Describe the image in one sentence."


@pytest.mark.parametrize("family", ["hybrid", "siglip"])
def test_the_answer_is_the_golden_one(family: str) -> None:
    model = dsvl_tune.load_model(GOLDEN / family / "checkpoint", device="cpu")
    chart = GOLDEN / family / "images" / "chart.png"
    ids = load_file(GOLDEN / family / "logits.safetensors")["gen_one_image.greedy_ids"]
    golden = read_tokenizer(GOLDEN / family / "checkpoint").decode(ids).strip()
    assert model.answer(QUESTION, chart, max_new_tokens=12) == golden
    with Image.open(chart) as image:
        assert model.answer(QUESTION, image, max_new_tokens=12) == golden
    assert model.answer(f"<image>{QUESTION}", [str(chart)], max_new_tokens=12) == golden


def test_images_in_memory_are_distinguished() -> None:
    model = dsvl_tune.load_model("embedded", device="cpu")
    red, blue = (Image.new("RGB", (32, 32), color) for color in ("red", "blue"))
    answers = [
        model.answer("What is this?", images, system="", max_new_tokens=8)
        for images in (red, blue, [red, blue], red)
    ]
    assert answers[0] == answers[3]


def test_errors_name_the_image_and_the_places(tmp_path: Path) -> None:
    model = dsvl_tune.load_model("embedded", device="cpu")
    with pytest.raises(dsvl_tune.UserError, match=r"none\.png"):
        model.answer("What is this?", tmp_path / "none.png")
    with pytest.raises(dsvl_tune.UserError, match="image"):
        model.answer("<image> or <image>?", Image.new("RGB", (8, 8)))


def test_sampled_answers_follow_torchs_seed() -> None:
    import torch

    from dsvl_tune.evaluation.generation.generate import Sampling

    model = dsvl_tune.load_model("embedded", device="cpu")
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(model.answer("red", max_new_tokens=8, sampling=Sampling(temperature=2.0)))
    assert answers[0] == answers[1] != answers[2]
