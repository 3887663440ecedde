"""Adapters start with the same values however a model is stored, and whatever was drawn before."""

from __future__ import annotations

from pathlib import Path

import torch

from dsvl_tune.core.family import PartPlan
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.build import Adaptation, adapted_model
from dsvl_tune.models.checkpoint.load import Storage
from dsvl_tune.models.finetuning.quantization import Quantization


def adapters(
    folder: Path, seed: int, storage: Storage = "loaded", quantization: Quantization | None = None
) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    experts = {name: PartPlan("lora") for name in ("experts",) if name in checkpoint.family.parts}
    adaptation = Adaptation(preset="lora", parts=experts, seed=seed, quantization=quantization)
    model, _ = adapted_model(checkpoint, adaptation, storage)
    return {name: tensor for name, tensor in model.named_parameters() if "lora_" in name}


def assert_follow_from_the_seed_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    first = adapters(folder, 3)
    others = [
        adapters(folder, 3, "empty"),
        adapters(folder, 3, "loaded", "nf4"),
        adapters(folder, 3, "empty", "nf4"),
    ]
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(1)
    for other in (*others, adapters(folder, 3)):
        assert first.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in first.items())
    another = adapters(folder, 4)
    assert not any(torch.equal(first[name], another[name]) for name in first if "lora_A" in name)


def test_values_follow_from_the_seed_alone(wide_checkpoint: Path) -> None:
    assert_follow_from_the_seed_alone(wide_checkpoint)


def test_values_of_experts_follow_from_the_seed_alone(deepseek_vl2_checkpoint: Path) -> None:
    assert_follow_from_the_seed_alone(deepseek_vl2_checkpoint)
