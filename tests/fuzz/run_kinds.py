"""Damaged run folders and adapters: recipes, manifests, locks, run checkpoints, peft's files."""

from __future__ import annotations

import io
import json
import reprlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from damage import VALUES, damage_bytes, damage_value
from frame import Case, Kind
from peft import LoraConfig
from safetensors.torch import save

from dsvl_tune.core.errors import UserError
from dsvl_tune.export.merge_adapter import read_changes
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.models.finetuning.trained_files import ADAPTER_WEIGHTS, PEFT_CONFIG
from dsvl_tune.recipe.recipe import complete_settings, read_settings
from dsvl_tune.training.checkpoints.files import FOLDER, LAST, PREVIOUS, newest_whole
from dsvl_tune.training.checkpoints.sharded_io import trained_tensors
from dsvl_tune.training.run.folder import place_run, write_settings
from dsvl_tune.training.run.inputs import MANIFEST, check_inputs, read_manifest

LAYERS = {
    "model.language_model.layers.0.self_attn.q_proj": (12, 8),
    "model.language_model.layers.0.mlp.up_proj": (20, 8),
}
"""Linear layers -> outputs and inputs."""
RANK = 2
KEYS = ["r", "lora_alpha", "target_modules", "rank_pattern", "modules_to_save", "run", "inputs"]
PATTERNS = ["(a+)+b", "((a|.)+)+(x|y)never", "(", ".*", "q_proj$", "[", "(?P<a>.)(?P<a>.)", ""]


def adapter_settings() -> dict[str, Any]:
    """Settings of an intact adapter, as peft writes them."""
    config = LoraConfig(r=RANK, lora_alpha=4, target_modules=list(LAYERS), use_dora=True)
    config.rank_pattern = {".*up_proj": RANK}
    content: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=sorted))
    return {**content, "peft_type": "LORA"}


def adapter_tensors() -> dict[str, torch.Tensor]:
    """Tensors of an intact adapter."""
    tensors = {}
    for name, (outputs, inputs) in LAYERS.items():
        prefix = f"base_model.model.{name}"
        tensors[f"{prefix}.lora_A.weight"] = torch.ones(RANK, inputs)
        tensors[f"{prefix}.lora_B.weight"] = torch.ones(outputs, RANK)
        tensors[f"{prefix}.lora_magnitude_vector"] = torch.ones(outputs)
    return tensors


def damaged_json(content: dict[str, Any], chance: Random) -> bytes:
    """A JSON file with damaged values or bytes."""
    text = json.dumps(content)
    if chance.random() < 0.75:
        damaged: Any = content
        try:
            for _ in range(chance.choice((1, 1, 2))):
                damaged = damage_value(damaged, KEYS, chance)
                if isinstance(damaged, dict) and chance.random() < 0.2:
                    damaged["target_modules"] = chance.choice(PATTERNS)
                    damaged["rank_pattern"] = {chance.choice(PATTERNS): 2}
            text = json.dumps(damaged, default=repr)
        except RecursionError:
            text = '{"r": ' + "[" * 3000
        return text.encode("utf-8", "surrogatepass")
    return damage_bytes(text.encode(), chance)


def damaged_adapter_settings(folder: Path, chance: Random) -> Case:
    """adapter_config.json with damaged values or bytes."""
    (folder / PEFT_CONFIG).write_bytes(damaged_json(adapter_settings(), chance))
    (folder / ADAPTER_WEIGHTS).write_bytes(save(adapter_tensors()))
    return Case(lambda: read_changes(folder, DEEPSEEK_VL), check_changes)


def check_changes(changes: object) -> None:
    """What was accepted changes layers of the adapter, by finite numbers of their sizes."""
    assert isinstance(changes, dict) and changes
    for name, change in changes.items():
        size = LAYERS[name.removesuffix(".weight")]
        assert change.shape == size
        assert bool(change.apply(torch.zeros(size)).isfinite().all())


def damaged_adapter_tensors(folder: Path, chance: Random) -> Case:
    """Tensors of another name, shape, dtype or value; or damaged bytes, which can be a weight."""
    tensors = adapter_tensors()
    in_bytes = chance.random() < 0.5
    if not in_bytes:
        name = chance.choice(list(tensors))
        tensor = tensors.pop(name)
        ways: list[Callable[[], torch.Tensor | None]] = [
            lambda: None,
            lambda: tensor.T.contiguous() if tensor.ndim == 2 else tensor[None],
            lambda: tensor[: chance.randrange(len(tensor) + 1)].clone(),
            lambda: tensor.to(chance.choice((torch.int8, torch.float64, torch.bool))),
            lambda: tensor * chance.choice((float("nan"), float("inf"), 1e39)),
            lambda: torch.zeros(()),
        ]
        made = chance.choice(ways)()
        if made is not None:
            places = [name, *tensors, "x", name.replace("lora_A", "lora_B")]
            tensors[chance.choice((name, chance.choice(places)))] = made
    content = save(tensors)
    if in_bytes:
        head = int.from_bytes(content[:8], "little") + 8
        content = damage_bytes(content[:head], chance) + content[head:]
    (folder / PEFT_CONFIG).write_text(json.dumps(adapter_settings()))
    (folder / ADAPTER_WEIGHTS).write_bytes(content)
    return Case(lambda: read_changes(folder, DEEPSEEK_VL))


@cache
def run_checkpoint(step: int) -> bytes:
    """A run checkpoint as torch writes it."""
    content = {
        "run": "a",
        "global_step": step,
        "state_dict": {"model.w": torch.full((400,), float(step))},
        "optimizer_states": [],
        "callbacks": {"best": {"best_model_path": "best.ckpt"}},
    }
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def damaged_checkpoints(folder: Path, chance: Random) -> Case:
    """The last run checkpoint damaged, or both: never a damaged one is taken."""
    (folder / FOLDER).mkdir()
    (folder / LAST).write_bytes(damage_bytes(run_checkpoint(2), chance))
    both = chance.random() < 0.3
    previous = damage_bytes(run_checkpoint(1), chance) if both else run_checkpoint(1)
    (folder / PREVIOUS).write_bytes(previous)

    def act() -> object:
        for name in (LAST, PREVIOUS):  # as --ckpt_path and --checkpoint name them
            with suppress(UserError):
                trained_tensors(folder / name)
        found = newest_whole(folder, "a")
        return None if found is None else (found.name, trained_tensors(found)[1]("model.w"))

    def check(result: object) -> None:
        if not both:
            assert result is not None
        if result is not None:
            assert isinstance(result, tuple)
            name, tensor = result
            assert bool((tensor == (2 if name == LAST.name else 1)).all())

    return Case(act, check)


@cache
def whole_settings() -> dict[str, Any]:
    """Settings of a run."""
    data = {"class_path": "dsvl_tune.datamodules.ChartsDataModule"}
    return complete_settings({"run_name": "run", "data": data})


def damaged_run_folder(folder: Path, chance: Random) -> Case:
    """An unfinished run with a damaged recipe, manifest or lock."""
    run = folder / "run"
    (run / FOLDER).mkdir(parents=True)
    write_settings(run, whole_settings())
    (run / LAST).write_bytes(run_checkpoint(2))
    manifest = {"run": "a", "inputs": {"base checkpoint: x": "1"}, "quantization": None}
    (run / MANIFEST).write_text(json.dumps(manifest))
    (run / ".lock").write_text("process 1 on here\n")
    target = run / chance.choice(("config.yaml", MANIFEST, ".lock"))
    if target.name == MANIFEST and chance.random() < 0.7:
        target.write_bytes(damaged_json(manifest, chance))
    elif target.name == "config.yaml" and chance.random() < 0.5:
        key = chance.choice(list(whole_settings()))
        value = reprlib.repr(chance.choice(VALUES))
        target.write_text(f"{key}: {value}\n", encoding="utf-8", errors="replace")
    else:
        target.write_bytes(damage_bytes(target.read_bytes(), chance))

    def act() -> object:
        found, checkpoint = place_run(
            run,
            ckpt_path=None,
            resume="auto",
            settings=whole_settings(),
            read_settings=read_settings,
        )
        if checkpoint is not None:
            check_inputs(found, {"base checkpoint: x": "1"})
        read_manifest(found)
        return found

    def check(found: object) -> None:
        assert found in (run, folder / "run-2")

    return Case(act, check)


RUN_KINDS: dict[str, Kind] = {
    "adapter_settings": damaged_adapter_settings,
    "adapter_tensors": damaged_adapter_tensors,
    "run_checkpoints": damaged_checkpoints,
    "run_folders": damaged_run_folder,
}
"""Kind of file of a run -> what damages it."""
