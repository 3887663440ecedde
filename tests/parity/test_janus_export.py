"""What `convert` writes of Janus, used as others use it: plain transformers, both halves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from janus_golden import CASES, CHECKPOINT, FOLDER, TOLERANCE, case_of, has_old_roles
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, PreTrainedModel

from dsvl_tune.export.merge_adapter import merge_into
from dsvl_tune.export.pixel_difference import pixel_differences
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.weights import Weights

PLAIN = [case for case in CASES if not has_old_roles(case)]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("janus")
    merge_into(Weights(open_checkpoint(CHECKPOINT)), {}, target, "transformers", None)
    return target


@pytest.fixture(scope="module")
def model(export: Path) -> PreTrainedModel:
    plain, loading = AutoModelForImageTextToText.from_pretrained(
        export, dtype=torch.float32, output_loading_info=True
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    return plain.eval()


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(FOLDER / "logits.safetensors")


def messages(case: dict[str, Any], parts: bool) -> list[dict[str, Any]]:
    """The case in OpenAI's form, with contents as strings or as lists of parts."""
    found: list[dict[str, Any]] = []
    if case["system"]["kind"] != "default":
        found.append({"role": "system", "content": case["system"]["text"]})
    for number, message in enumerate(case["messages"]):
        content: Any = message["content"]
        if not content:
            continue
        if parts:
            first, *rest = content.split("<image_placeholder>")
            content = [{"type": "text", "text": first}]
            for text in rest:
                content += [{"type": "image"}, {"type": "text", "text": text}]
        found.append({"role": "assistant" if number % 2 else "user", "content": content})
    return found


@pytest.mark.parametrize("parts", [False, True], ids=["strings", "parts"])
@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case["id"])
def test_the_template_renders_the_golden_prompts(
    export: Path, case: dict[str, Any], parts: bool
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(export)
    generation, rows = case["form"] == "generation", messages(case, parts)
    text = tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=generation)
    assert text == tokenizer.bos_token + case["prompt"]


def test_the_template_marks_what_is_supervised(export: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(export)
    case = case_of("train_text")
    encoded = tokenizer.apply_chat_template(
        messages(case, parts=False), return_dict=True, return_assistant_tokens_mask=True
    )
    assert encoded["input_ids"] == case["input_ids"]
    ((start, end),) = case["supervised"]
    marked = [position for position, mask in enumerate(encoded["assistant_masks"]) if mask]
    assert marked == list(range(start, end))


@torch.no_grad()
@pytest.mark.parametrize("name", ["gen_text", "gen_one_image", "gen_two_images"])
def test_logits_and_greedy_ids(
    export: Path, model: PreTrainedModel, expected: dict[str, Tensor], name: str
) -> None:
    """Prompt by the exported template, tokens by AutoProcessor, pixels by the original's rule."""
    case, ours = case_of(name), open_checkpoint(export).processor
    processor = AutoProcessor.from_pretrained(export, backend="pil")
    text = processor.apply_chat_template(
        messages(case, parts=False), tokenize=False, add_generation_prompt=True
    )
    files = [file for message in case["messages"] for file in message.get("images", ())]
    pictures = [Image.open(FOLDER / "images" / file).convert("RGB") for file in files]
    inputs = processor(
        text=text, images=pictures or None, add_special_tokens=False, return_tensors="pt"
    )
    ids = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    assert ids["input_ids"].shape[1] == case["expanded_length"]
    pixels = []
    for picture in pictures:
        padded = ours.family.pad_image(picture, ours, images=1)
        pixels.append(ours.family.normalize(ours.family.vision_input(padded, ours), ours))
    images = {"pixel_values": torch.cat([one["pixel_values"] for one in pixels])} if pixels else {}
    logits = model(**ids, **images).logits[0, expected[f"{name}.positions"]]
    assert (logits - expected[f"{name}.logits"]).abs().max() <= TOLERANCE
    made = model.generate(**ids, **images, max_new_tokens=12, do_sample=False)
    assert made[0, ids["input_ids"].shape[1] :].tolist() == expected[f"{name}.greedy_ids"].tolist()


@torch.no_grad()
def test_image_generation_is_alive(model: PreTrainedModel, expected: dict[str, Tensor]) -> None:
    """Codes through embeddings, aligner, decoder and head; codes to pixels; pixels to latents."""
    codes = expected["generation.codes"]
    hidden = model.model.language_model(
        inputs_embeds=model.prepare_embeddings_for_image_generation(codes)
    ).last_hidden_state
    head = model.model.generation_head(hidden)
    assert (head[0] - expected["generation.head_logits"]).abs().max() <= TOLERANCE

    vq = model.model.vqmodel
    codes = expected["generation.decode_codes"]
    grid = vq.quantize.embedding.weight[codes[0]]
    grid = torch.nn.functional.normalize(grid, dim=-1).view(1, 4, 4, -1).permute(0, 3, 1, 2)
    decoded = vq.decoder(vq.post_quant_conv(grid))
    assert (decoded[0] - expected["generation.decoded"]).abs().max() <= TOLERANCE

    # Of transformers' quantizer 48 of 64 codes are the original's: it leaves out a normalization.
    pixels = expected["generation.encode_pixels"][None]
    found = vq.encode(pixels).image_tokens.flatten()
    assert int((found == expected["generation.encoded_codes"].flatten()).sum()) == 48


def test_transformers_processor_differs_where_the_card_says(export: Path) -> None:
    found = {(d.width, d.height): d for d in pixel_differences(open_checkpoint(export))}
    for size in ((640, 480), (1920, 1080), (1000, 300)):
        assert found[size].largest <= 1e-3
    assert found[(500, 333)].largest > 20  # rounded, not truncated: no setting changes that
