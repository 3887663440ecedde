"""Routed experts in 4 bits: bitsandbytes' values, and the numbers of an unpacked model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional as bnb
from tiny_deepseek_vl2 import build_deepseek_vl2
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan, part_of
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl2.family import DEEPSEEK_VL2
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import apply_plan, load_trained, save_trained
from dsvl_tune.models.finetuning.four_bit_experts import FourBitExperts, unpack_used
from dsvl_tune.models.finetuning.plan import fit_plan, make_plan
from dsvl_tune.models.finetuning.quantization import (
    check_quantization,
    four_bit_weights,
    parameter_sizes,
)
from dsvl_tune.models.finetuning.trained_files import base_name

ADAPTED = {"experts": PartPlan("lora", rank=4), "attention": PartPlan("lora", rank=4)}


def adapted(model: PreTrainedModel) -> PreTrainedModel:
    """With adapters on experts and attention, of the same random values for every base."""
    apply_plan(model, fit_plan(make_plan(DEEPSEEK_VL2, "none", ADAPTED), model, set()))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return model


def unpacked(folder: Path, packed: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A plain model with the values that the 4-bit weights of another stand for."""
    plain = create_model(open_checkpoint(folder), dtype)
    states: dict[str, Any] = {}
    for path, module in packed.named_modules():
        if isinstance(module, FourBitExperts):
            states |= {f"{path}.{name}": state for name, state in module.quant_states.items()}
        elif hasattr(module, "quant_state"):
            states[f"{path}.weight"] = module.quant_state
    parameters = dict(packed.named_parameters())
    assert len(states) == len(four_bit_weights(packed))
    with torch.no_grad():
        for name, state in states.items():
            plain.get_parameter(name).copy_(bnb.dequantize_4bit(parameters[name].data, state))
    return plain


def outcome(model: PreTrainedModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradients of what trains."""
    ids = torch.randint(10, 400, (2, 15), generator=torch.Generator().manual_seed(2))
    output = model(input_ids=ids, labels=ids, use_cache=False)
    output.loss.backward()
    return output.logits, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_every_expert_is_packed_as_bitsandbytes_does(deepseek_vl2_checkpoint: Path) -> None:
    base = open_checkpoint(deepseek_vl2_checkpoint)
    model, weights = create_model(base, torch.bfloat16, "nf4"), Weights(base)
    census = Counter(part_of(name, DEEPSEEK_VL2.parts) for name in four_bit_weights(model))
    assert census == {"attention": 3 * 4, "mlp": 3 + 2 * 3, "experts": 2 * 2}
    stacks = [module for module in model.modules() if isinstance(module, FourBitExperts)]
    parameters = dict(model.named_parameters())
    for number, experts in enumerate(stacks, start=1):
        for name, state in experts.quant_states.items():
            full = f"model.language_model.layers.{number}.mlp.experts.{name}"
            values = weights.read(full).bfloat16()
            wanted, own = bnb.quantize_4bit(values, compress_statistics=True, quant_type="nf4")
            assert torch.equal(parameters[full], wanted)
            assert torch.equal(
                bnb.dequantize_4bit(wanted, own), bnb.dequantize_4bit(parameters[full].data, state)
            )
    sizes = {name: size for name, _, size in parameter_sizes(model)}
    assert sizes == {n: p.numel() for n, p in create_model(base).named_parameters()}
    biases = {n: b for n, b in model.named_buffers() if "correction" in n}
    assert {bias.dtype for bias in biases.values()} == {torch.float32}
    assert all(torch.equal(bias, weights.read(name)) for name, bias in biases.items())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("size", ["tiny", "base"])
def test_it_computes_as_an_unpacked_model_does(
    tmp_path: Path, size: str, dtype: torch.dtype, tolerance: float
) -> None:
    folder = build_deepseek_vl2(tmp_path / "base", size)
    packed = create_model(open_checkpoint(folder), dtype, "nf4")
    plain = adapted(unpacked(folder, packed, dtype))
    (logits, grads), (wanted, wanted_grads) = outcome(adapted(packed)), outcome(plain)
    assert (logits - wanted).norm() <= tolerance * wanted.norm()
    assert grads.keys() == wanted_grads.keys()
    for name, grad in grads.items():
        assert (grad - wanted_grads[name]).norm() <= tolerance * wanted_grads[name].norm(), name


def test_no_unpacked_matrix_is_kept(deepseek_vl2_checkpoint: Path) -> None:
    model = adapted(create_model(open_checkpoint(deepseek_vl2_checkpoint), quantization="nf4"))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outcome(model)
    assert kept and max(kept) < 8 * 64 * 64  # the smaller stack


def test_answers_unpack_the_chosen_experts_alone(deepseek_vl2_checkpoint: Path) -> None:
    model = create_model(open_checkpoint(deepseek_vl2_checkpoint), quantization="nf4")
    experts = next(module for module in model.modules() if isinstance(module, FourBitExperts))
    packed, state = experts.gate_up_proj, experts.quant_states["gate_up_proj"]
    every = bnb.dequantize_4bit(packed.data, state)
    ends = torch.tensor([0, 0, 2, 2, 3, 3, 3, 3], dtype=torch.int32)
    matrices, used = unpack_used(packed, state, ends, 3)
    assert torch.equal(matrices, every[[2, 4]]) and used.tolist() == [2, 3]

    ids = torch.randint(10, 400, (1, 9), generator=torch.Generator().manual_seed(2))
    plain = unpacked(deepseek_vl2_checkpoint, model, torch.float32)
    answers = [m.eval().generate(input_ids=ids, max_new_tokens=8) for m in (model, plain)]
    assert torch.equal(*answers)


def test_adapters_load_on_packed_experts(deepseek_vl2_checkpoint: Path, tmp_path: Path) -> None:
    base = open_checkpoint(deepseek_vl2_checkpoint)
    model = adapted(create_model(base, quantization="nf4"))
    save_trained(model, tmp_path, base)
    loaded = create_model(base, quantization="nf4")
    load_trained(loaded, tmp_path)
    ids = torch.arange(20, 30)[None]
    assert torch.equal(model.eval()(input_ids=ids).logits, loaded(input_ids=ids).logits)
    names = {base_name(name) for name, _ in loaded.named_parameters() if "lora_" not in name}
    assert names == {name for name, _ in create_model(base).named_parameters()}


def test_packed_experts_are_not_fully_trained() -> None:
    plan = make_plan(DEEPSEEK_VL2, "qlora", {"experts": PartPlan("full")})
    with pytest.raises(UserError, match="experts is to be fully trained, but model.quantization"):
        check_quantization(plan, DEEPSEEK_VL2.parts)
