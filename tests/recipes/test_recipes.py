"""Every recipe parses against the real signatures; the published models have their sizes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import part_of
from dsvl_tune.families.deepseek_vl.parts import PARTS
from dsvl_tune.models.finetuning.quantization import NF4_BYTES
from dsvl_tune.recipe.parser import recipe_parser
from dsvl_tune.recipe.recipe import Recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
PUBLISHED = [
    f"deepseek_vl_{size}_{kind}_lora" for size in ("1.3b", "7b") for kind in ("base", "chat")
]


def parse(*arguments: str) -> Recipe:
    """The recipe of a command line; nothing is built, downloaded or run."""
    return Recipe.parse(recipe_parser(), list(arguments))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parsed = parse("--config", str(recipe))
    assert parsed.config.data.class_path.startswith("dsvl_tune.datamodules.")
    assert parsed.first_run_folder == Path("runs") / recipe.stem
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_header(recipe: Path) -> None:
    header = recipe.read_text(encoding="utf-8").split("\n\n", 1)[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert all(
        f"# {word} " in header
        for word in ("purpose", "hardware", "memory", "commands", "change", "result")
    )


@pytest.mark.parametrize(
    ("name", "format", "own"),
    [
        ("chartqa", "chartqa", []),
        ("scienceqa", "scienceqa", []),
        ("docvqa", "answers", ["--data.train", "rows.parquet"]),
        ("textvqa", "answers", ["--data.train", "rows.parquet"]),
        ("captions", "caption", ["--data.train", "rows.parquet"]),
    ],
)
@pytest.mark.parametrize("recipe", ["charts_lora", "deepseek_vl_7b_chat_lora"])
def test_data_presets_follow_a_recipe(recipe: str, name: str, format: str, own: list[str]) -> None:
    parsed = parse("--config", recipe, "--config", name, *own)
    assert parsed.first_run_folder == Path("runs") / recipe
    data = parsed.config.data
    assert data.class_path == "dsvl_tune.datamodules.InstructDataModule"
    assert data.init_args.format == format
    assert data.init_args.train.endswith(("parquet", "QA"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_have_recipes(name: str) -> None:
    config = parse("--config", name).config
    size, kind = name.split("_")[2:4]
    assert config.model.checkpoint == f"deepseek-ai/deepseek-vl-{size}-{kind}"
    assert config.model.parts["language_model"].mode == "lora"
    assert config.data.init_args.checkpoint == config.model.checkpoint


def test_a_misspelled_key_is_named_with_the_nearest(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: {gradient_checkpoint: true}\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"gradient_checkpoint.*Did you mean 'model.gradient_checkpointing'"
    ):
        parse("--config", str(recipe))


def test_old_keys_still_work_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        """
best_by: val/loss
model: {final_lr_share: 0.1}
data:
  class_path: dsvl_tune.datamodules.MixtureDataModule
  init_args:
    whole_steps: true
    sources:
      charts:
        class_path: dsvl_tune.datamodules.ChartsDataModule
        init_args: {overlong: truncate, probe_scenes: 3}
""",
        encoding="utf-8",
    )
    config = parse("--config", str(recipe)).config
    assert config.monitor == "val/loss"
    assert config.model.min_lr_ratio == 0.1
    assert config.data.init_args.homogeneous_steps is True
    charts = config.data.init_args.sources["charts"].init_args
    assert charts.on_overflow == "truncate"
    assert charts.retention_scenes == 3
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 5
    assert all(line.startswith("warning: ") for line in warnings)


SIGLIP_LARGE_384 = {
    "model_type": "siglip_vision_model",
    "image_size": 384,
    "patch_size": 16,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "hidden_act": "gelu",
    "vision_use_head": False,
}
SAM_B_1024 = {
    "model_type": "sam_vision_model",
    "image_size": 1024,
    "patch_size": 16,
    "hidden_size": 768,
    "mlp_dim": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "output_channels": 256,
    "window_size": 14,
    "global_attn_indexes": [2, 5, 8, 11],
}
LLAMA = {"model_type": "llama", "vocab_size": 102400, "max_position_embeddings": 16384}
LLAMA_1B = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 30,
    "num_attention_heads": 32,
}

# Parameters of each part.
SIZES = {
    "deepseek_vl": {
        "siglip": 303_688_704,
        "aligner": 6_295_552,
        "embed_tokens": 209_715_200,
        "language_model": 1_233_225_728,
        "lm_head": 209_715_200,
    },
    "deepseek_vl_hybrid": {
        "siglip": 303_688_704,
        "sam": 88_883_456,
        "sam_neck": 787_456,
        "sam_neck_hd": 787_456 + 1,  # and alpha
        "downsample": 5_898_240,
        "aligner": 20_979_712,
        "embed_tokens": 419_430_400,
        "language_model": 6_071_504_896,
        "lm_head": 419_430_400,
    },
}

# Unused parameters that only the original layout has: SigLIP's attention pooling, and two norms of
# the hybrid.
ORIGINAL_ONLY = {"deepseek_vl": 12_595_200, "deepseek_vl_hybrid": 12_599_296}


def published_config(model_type: str) -> Any:
    """The configuration of the published checkpoints of a family."""
    hybrid = model_type == "deepseek_vl_hybrid"
    return AutoConfig.for_model(
        model_type,
        text_config={**LLAMA, **(LLAMA_7B if hybrid else LLAMA_1B)},
        vision_config=SIGLIP_LARGE_384,
        tie_word_embeddings=False,
        **({"high_res_vision_config": SAM_B_1024} if hybrid else {}),
    )


@pytest.mark.parametrize("model_type", SIZES)
def test_published_sizes(model_type: str) -> None:
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(published_config(model_type))
    counted: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counted[part_of(name, PARTS)] += parameter.numel()
    assert counted == SIZES[model_type]


def test_memory_of_the_7b_in_4_bits_is_what_its_recipe_says() -> None:
    width, inner, layers = (
        LLAMA_7B[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    linear = layers * (4 * width**2 + 3 * width * inner)
    other = sum(SIZES["deepseek_vl_hybrid"].values()) - linear
    header = next(path for path in RECIPES if path.stem == "deepseek_vl_7b_chat_qlora").read_text(
        encoding="utf-8"
    )
    packed, kept = linear * NF4_BYTES / 1e9, other * 2 / 1e9
    for figure in (
        f"{linear / 1e9:.2f} billion",
        f"4 bits (0.516 bytes each) {packed:.2f} GB",
        f"bfloat16 {kept:.2f} GB",
    ):
        assert figure in " ".join(header.replace("#", " ").split())
    adapters = 37.7e6 * 16 / 1e9  # value, gradient and AdamW's two moments in float32
    assert f"together {packed + kept + adapters:.2f} GB" in header


def test_published_sizes_fill_the_published_files() -> None:
    gigabytes = {
        family: 2 * (sum(SIZES[family].values()) + ORIGINAL_ONLY[family]) / 1e9 for family in SIZES
    }
    assert gigabytes["deepseek_vl"] == pytest.approx(3.95, abs=0.005)
    assert gigabytes["deepseek_vl_hybrid"] == pytest.approx(4.98 + 4.96 + 4.75, abs=0.015)
