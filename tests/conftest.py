"""Random tiny checkpoints, made once a session, and a server of forked commands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from tiny_janus import build_janus

if TYPE_CHECKING:
    from runs import Commands

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = {"deepseek_vl_hybrid": "hybrid", "deepseek_vl": "siglip"}


def build_checkpoint(folder: Path, width: int = 48, inner: int = 80, *, model_type: str) -> Path:
    """A random model of the family in transformers' layout, with the golden tokenizer.

    An image has 16 visual tokens. `width` is the language model's, `inner` that of its MLPs;
    bitsandbytes needs multiples of 64. Every tensor is random, alpha included: transformers' own
    initialization leaves the SAM tower without effect (alpha 0, weights 1e-10).
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        GOLDEN / FAMILIES[model_type] / "checkpoint"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_placeholder>"]})
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 48}
    config = AutoConfig.for_model(
        model_type,
        text_config={
            "model_type": "llama",
            "vocab_size": 512,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "hidden_act": "gelu",
            "vision_use_head": False,
            **vision,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
        **({"high_res_vision_config": sam_config()} if model_type == "deepseek_vl_hybrid" else {}),
    )
    torch.manual_seed(7)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if parameter.ndim == 1 else 0.3 * parameter[0].numel() ** -0.5 * 3
            center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(center + scale * (0.2 if center else 1.0) * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_image_settings(folder, model_type)
    return folder


def sam_config() -> dict[str, object]:
    """The smallest SAM that has windowed and global layers."""
    sizes = {
        "image_size": 64,
        "patch_size": 8,
        "hidden_size": 32,
        "mlp_dim": 48,
        "output_channels": 8,
    }
    layers = {
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "window_size": 3,
        "global_attn_indexes": [1, 2],
    }
    return {"model_type": "sam_vision_model", **sizes, **layers}


def write_image_settings(folder: Path, model_type: str) -> None:
    """preprocessor_config.json as transformers' converter writes it, at the tiny sizes."""
    import json

    half = [0.5, 0.5, 0.5]
    settings: dict[str, object] = {
        "size": {"height": 32, "width": 32},
        "image_mean": half,
        "image_std": half,
    }
    if model_type == "deepseek_vl_hybrid":
        settings |= {
            "high_res_size": {"height": 64, "width": 64},
            "high_res_image_mean": [0.48145466, 0.4578275, 0.40821073],
            "high_res_image_std": [0.26862954, 0.26130258, 0.27577711],
        }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


BUILDERS: dict[str, Callable[[Path, int, int], Path]] = {
    "deepseek_vl_hybrid": partial(build_checkpoint, model_type="deepseek_vl_hybrid"),
    "deepseek_vl": partial(build_checkpoint, model_type="deepseek_vl"),
    "janus": build_janus,
}
"""Writes a random tiny checkpoint: its folder, the language model's width and that of its MLPs."""


@pytest.fixture(scope="session", params=BUILDERS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny checkpoint of each family in turn."""
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param), 48, 80)


@pytest.fixture(scope="session", params=BUILDERS)
def wide_checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A random tiny checkpoint of each family in turn, that can be quantized."""
    return BUILDERS[request.param](tmp_path_factory.mktemp(f"wide_{request.param}"), 64, 128)


@pytest.fixture(scope="session")
def wide_hybrid_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny hybrid checkpoint that can be quantized."""
    return build_checkpoint(
        tmp_path_factory.mktemp("wide_hybrid"), 64, 128, model_type="deepseek_vl_hybrid"
    )


@pytest.fixture(scope="session")
def wide_siglip_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SigLIP-only checkpoint with a language model 64 wide."""
    return build_checkpoint(
        tmp_path_factory.mktemp("wide_siglip"), 64, 128, model_type="deepseek_vl"
    )


@pytest.fixture(scope="session")
def hybrid_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny hybrid checkpoint."""
    return build_checkpoint(tmp_path_factory.mktemp("hybrid"), model_type="deepseek_vl_hybrid")


@pytest.fixture(scope="session")
def deepseek_vl2_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny DeepSeek-VL2, of the base's attention and router."""
    from tiny_deepseek_vl2 import build_deepseek_vl2

    return build_deepseek_vl2(tmp_path_factory.mktemp("deepseek_vl2"))


@pytest.fixture(scope="session")
def janus_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny Janus."""
    return build_janus(tmp_path_factory.mktemp("janus"))


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """`dsvl-tune` in processes that import nothing; see `runs.Commands`."""
    from runs import Commands

    script = Path(__file__).with_name("forked_commands.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield Commands(server)
        assert server.stdin is not None
        server.stdin.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests take longest, so that no core waits for one at the end."""
    slow = ("tests/distributed", "tests/survival", "tests/cli/test_families_walk", "tests/examples")
    items.sort(key=lambda item: not item.nodeid.startswith(slow))


@pytest.fixture(autouse=True)
def first_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that plays another rank sets Lightning's; the next test is the first rank again."""
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
