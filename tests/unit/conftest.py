"""A checkpoint folder with one weight (untied), so small that an image is four tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import DeepseekVLConfig

from dsvl_tune.core.family import Processor
from dsvl_tune.families import open_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Hugging Face datasets unpacks goes to the test's own folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """SigLIP-only, 32 px, 4 image tokens, context 256, the golden tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    config = DeepseekVLConfig(
        text_config={"max_position_embeddings": 256, "vocab_size": 512},
        vision_config={"image_size": 32, "patch_size": 16},
        image_token_id=486,
    )
    config.save_pretrained(folder)
    save_file({"lm_head.weight": torch.zeros(1)}, folder / "model.safetensors")
    for name in ("tokenizer.json", "special_tokens_map.json", "tokenizer_config.json"):
        shutil.copy(GOLDEN / "siglip" / "checkpoint" / name, folder)
    settings = {
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.fixture(scope="session")
def processor(tiny_checkpoint: str) -> Processor:
    """The processor of that checkpoint."""
    return open_checkpoint(Path(tiny_checkpoint)).processor
