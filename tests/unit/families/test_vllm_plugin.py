"""What the plugin gives transformers' processors. vLLM itself runs in tests/interop."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, DeepseekVLHybridProcessor, DeepseekVLProcessor

from dsvl_tune.export.convert_checkpoint import convert_checkpoint
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.vllm_plugin import register

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
IMAGES = sorted((GOLDEN / "hybrid" / "images").iterdir())


@pytest.fixture(params=["hybrid", "siglip"])
def export(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A golden checkpoint in transformers' layout."""
    source = str(GOLDEN / request.param / "checkpoint")
    convert_checkpoint(source, tmp_path / "export", "transformers", overwrite=False, sha256=None)
    return tmp_path / "export"


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin, as long as the test runs."""
    for processor in (DeepseekVLHybridProcessor, DeepseekVLProcessor):
        for name in ("_get_num_multimodal_tokens", "_process_images"):
            monkeypatch.setattr(processor, name, None, raising=False)
    register()


@pytest.mark.usefixtures("registered")
def test_pixels_are_those_of_training(export: Path) -> None:
    """To the bit; transformers' own differ on most of these images."""
    theirs, ours = AutoProcessor.from_pretrained(export), open_checkpoint(export).processor
    opened = [Image.open(path).convert("RGB") for path in IMAGES]
    found = theirs(text=theirs.image_token * len(opened), images=opened, return_tensors="pt")
    family = ours.family
    for index, image in enumerate(opened):
        padded = family.pad_image(image, ours, images=1)
        wanted = family.normalize(family.vision_input(padded, ours), ours)
        for name, pixels in wanted.items():
            assert torch.equal(found[name][index : index + 1], pixels), (IMAGES[index], name)
    tokens = int((found["input_ids"] == ours.image_token_id).sum())
    assert tokens == len(opened) * ours.image_settings.tokens


@pytest.mark.usefixtures("registered")
def test_visual_tokens_of_any_size(export: Path) -> None:
    """As many as the processor writes for an image, of one row of pixels each."""
    processor = AutoProcessor.from_pretrained(export)
    counted = processor._get_num_multimodal_tokens(image_sizes=[(10, 2000), (333, 500)])
    written = processor(text=processor.image_token, images=[Image.new("RGB", (333, 500))])
    tokens = int((written["input_ids"] == processor.image_token_id).sum())
    assert counted["num_image_tokens"] == [tokens, tokens]
    assert counted["num_image_patches"] == [1, 1]


def test_vllm_finds_it() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    line = re.search(r'entry-points."vllm.general_plugins"\]\n\w+ = "(.*)"\n', text)
    assert line is not None
    assert EntryPoint("plugin", line[1], "vllm.general_plugins").load() is register
