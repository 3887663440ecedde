"""Memory on checkpoints of the published sizes.

Converting needs about as much as one file, a process of a sharded run its share of the weights.

Writes about 12 GB and trains 100 million parameters, so it runs only when asked:
LARGE=1 pytest -s tests/cli/test_large.py
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import DeepseekVLHybridConfig

from dsvl_tune.core.checkpoint.weight_headers import WEIGHTS_INDEX, read_headers
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.models.checkpoint.weights import expected_shapes, original_shapes, read_tensor

GOLDEN = Path(__file__).parents[1] / "golden" / "hybrid" / "checkpoint"
SHARD_BYTES = 10**9
PUBLISHED = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "vocab_size": 102400,
}
"""The smaller published language model."""
SMALLER = {
    "hidden_size": 768,
    "intermediate_size": 2112,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "vocab_size": 16000,
}
MEMORY = Path(__file__).parents[1] / "distributed" / "memory.py"
GROUND_BYTES = 10**9
"""What Python, torch and transformers take before the first tensor is read, generously."""

pytestmark = pytest.mark.skipif("LARGE" not in os.environ, reason="writes 12 GB; run with LARGE=1")


def write_settings(folder: Path, language: dict[str, int]) -> DeepseekVLHybridConfig:
    """A hybrid of the published towers and a language model; tokenizer of the golden files."""
    folder.mkdir()
    for path in GOLDEN.glob("*.json"):
        shutil.copyfile(path, folder / path.name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["language_config"] |= {
        **language,
        "num_key_value_heads": language["num_attention_heads"],
    }
    config["aligner_config"]["params"] |= {"input_dim": 1024, "n_embed": language["hidden_size"]}
    kept = ("image_size", "pixel_mean", "pixel_std", "select_feature", "select_layer")
    names = {"high_res_cfg": "sam_b_downsample", "low_res_cfg": "siglip_large_patch16_384"}
    for key, name in names.items():
        tower = config["vision_config"]["params"][key]
        config["vision_config"]["params"][key] = {
            "model_name": name,
            **{field: tower[field] for field in kept},
        }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    siglip = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    return DeepseekVLHybridConfig(
        text_config={"model_type": "llama", **language},
        vision_config={**siglip, "image_size": 384, "patch_size": 16, "vision_use_head": False},
        high_res_vision_config={"global_attn_indexes": [2, 5, 8, 11]},
        tie_word_embeddings=False,
    )


def write_checkpoint(folder: Path, language: dict[str, int] = PUBLISHED) -> int:
    """An original checkpoint of random float16 values in files of up to 1 GB; its size in bytes."""
    config = write_settings(folder, language)
    shapes = expected_shapes(config, DEEPSEEK_VL, folder)
    groups: Any = {name: DEEPSEEK_VL.tensor_group(name, config) for name in shapes}
    values = torch.randn(1 << 22, generator=torch.Generator().manual_seed(1)).half()
    shards: list[dict[str, torch.Tensor]] = [{}]
    places: dict[str, str] = {}
    total = 0
    wanted = {**original_shapes(shapes, groups), **DEEPSEEK_VL.unused_tensors(config)}
    for number, (name, shape) in enumerate(wanted.items()):
        count = torch.Size(shape).numel()
        total += 2 * count
        if total > SHARD_BYTES * len(shards):
            save_file(
                shards[-1],
                folder / f"model-{len(shards):05}.safetensors",
                metadata={"format": "pt"},
            )
            shards = [{} for _ in shards] + [{}]
        shards[-1][name] = (
            values.roll(number).repeat(count // len(values) + 1)[:count].reshape(shape).clone()
        )
        places[name] = f"model-{len(shards):05}.safetensors"
    save_file(shards[-1], folder / f"model-{len(shards):05}.safetensors", metadata={"format": "pt"})
    (folder / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    return total


def convert(source: Path, target: Path, layout: str) -> None:
    """The command in a process of its own, its peak memory held against one file."""
    command = [
        sys.executable,
        "-m",
        "dsvl_tune",
        "convert",
        str(source),
        str(target),
        "--to",
        layout,
    ]
    begin = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    largest = max(path.stat().st_size for path in source.glob("*.safetensors"))
    print(
        f"to {layout}: {seconds:.0f} s, peak {peak / 1e9:.2f} GB, "
        f"largest file {largest / 1e9:.2f} GB"
    )
    assert peak <= GROUND_BYTES + 1.2 * largest


def test_peak_memory_is_about_one_file(tmp_path: Path) -> None:
    source, there, back = (tmp_path / name for name in ("source", "there", "back"))
    total = write_checkpoint(source)
    assert total > 4e9
    print(f"\n{total / 1e9:.2f} GB in {len(list(source.glob('*.safetensors')))} files")
    convert(source, there, "transformers")
    convert(there, back, "original")
    before, after = read_headers(source), read_headers(back)
    assert set(before) == set(after)
    for name, stored in before.items():
        assert torch.equal(
            *(read_tensor(one).view(torch.int16) for one in (stored, after[name]))
        ), name
    shutil.rmtree(tmp_path)


def peaks(source: Path, out: Path, preset: str, world_size: int) -> dict[str, int]:
    """The largest figures of any process of a sharded run."""
    out.mkdir(exist_ok=True)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size)]
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }  # freed memory goes back at once
    command = [sys.executable, *launch, str(MEMORY), str(source), str(out), preset]
    subprocess.run(command, check=True, env=environment)
    reports = [json.loads(path.read_text()) for path in out.glob(f"{world_size}.*.json")]
    most = {key: max(one[key] for one in reports) for key in reports[0]}
    print(
        f"{preset}, {world_size} processes:",
        {key: f"{value / 1e9:.2f} GB" for key, value in most.items()},
    )
    return most


def test_a_process_of_a_sharded_run_loads_its_share(tmp_path: Path) -> None:
    total = write_checkpoint(tmp_path / "source")
    assert total > 4e9
    for world_size in (1, 2, 4):
        most = peaks(tmp_path / "source", tmp_path / "loading", "lora", world_size)
        assert most["loaded"] < 1.25 * total / world_size
    shutil.rmtree(tmp_path)


def test_a_process_loads_its_share_of_a_base_in_4_bits(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source")
    one, two = (
        peaks(tmp_path / "source", tmp_path / "packed", "qlora", n)["loaded"] for n in (1, 2)
    )
    assert two < 0.55 * one
    shutil.rmtree(tmp_path)


def test_parameters_gradients_and_optimizer_are_a_share(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", SMALLER)
    one, two, four = (
        peaks(tmp_path / "source", tmp_path / "full", "pretrain", n)["peak"] for n in (1, 2, 4)
    )
    shared = 2 * (
        one - two
    )  # of a peak that is a constant and a share: what is gathered at a time, and all the rest
    assert shared == pytest.approx(4 * (two - four), rel=0.1)
    assert shared > 0.8 * one
    shutil.rmtree(tmp_path)
