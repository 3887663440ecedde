"""The 4-bit base: which layers, with what values, and what could silently be another model."""

from __future__ import annotations

import copy
import gc
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional as bnb
from peft import PeftModel
from reference import assert_as_near, exact, exact_copy
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan, part_of
from dsvl_tune.export.merge_adapter import merge_into
from dsvl_tune.families import family_of_model, open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.families.deepseek_vl.parts import PARTS
from dsvl_tune.models.checkpoint.load import Storage, create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning import quantization
from dsvl_tune.models.finetuning.adapters import apply_plan, save_trained
from dsvl_tune.models.finetuning.plan import fit_plan, make_plan
from dsvl_tune.models.finetuning.quantization import (
    NF4_BYTES,
    check_quantization,
    four_bit_layers,
    nf4_config,
    parameter_sizes,
)


def inputs(model: Any, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """An image and some text."""
    torch.manual_seed(0)
    ids = torch.cat(
        [torch.full((1, 16), model.config.image_token_id), torch.randint(10, 400, (1, 9))], dim=1
    )
    found = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, 32, 32),
    }
    if model.config.model_type == "deepseek_vl_hybrid":
        found["high_res_pixel_values"] = torch.randn(1, 3, 64, 64)
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in found.items()
    }


def adapted(
    folder: Path, dtype: torch.dtype = torch.float32, variant: Any = "lora", **parts: PartPlan
) -> Any:
    """A model on a 4-bit base whose adapters are no longer at their start."""
    model = create_model(open_checkpoint(folder), dtype, "nf4")
    plan = make_plan(family_of_model(model), "qlora", parts)
    apply_plan(model, fit_plan(plan, model, set()), variant)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def gradients(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    model(**batch, labels=batch["input_ids"], use_cache=False).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def exact_unpacked(model: Any) -> Any:
    """The model in float64, with the values that its 4-bit weights stand for."""
    copied = copy.deepcopy(model)
    for name, layer in four_bit_layers(copied).items():
        linear = nn.Linear(layer.in_features, layer.out_features, bias=False).requires_grad_(False)
        packed = layer.weight
        linear.weight.data = bnb.dequantize_4bit(packed.data, packed.quant_state).float()
        copied.set_submodule(name, linear)
    return exact_copy(copied)


def in_original_layout(folder: Path, target: Path) -> Path:
    """The checkpoint as DeepSeek's own code has it."""
    target.mkdir()
    merge_into(Weights(open_checkpoint(folder)), {}, target, "original", None)
    return target


@pytest.mark.parametrize("layout", ["transformers", "original"])
def test_exactly_the_language_models_linear_layers(
    layout: str, wide_checkpoint: Path, tmp_path: Path
) -> None:
    folder = (
        wide_checkpoint
        if layout == "transformers"
        else in_original_layout(wide_checkpoint, tmp_path / "there")
    )
    full, packed = (
        create_model(open_checkpoint(folder), torch.bfloat16),
        create_model(open_checkpoint(folder), torch.bfloat16, "nf4"),
    )
    layers = full.config.text_config.num_hidden_layers
    found = four_bit_layers(packed)
    assert Counter(name.rsplit(".", 1)[1] for name in found) == dict.fromkeys(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), layers
    )
    assert {part_of(f"{name}.weight", PARTS) for name in found} == {"language_model"}
    before, after = full.state_dict(), dict(packed.named_parameters())
    assert set(dict(full.named_parameters())) == set(after)
    for name, parameter in after.items():
        layer = found.get(name.removesuffix(".weight"))
        if layer is None:
            assert parameter.dtype == torch.bfloat16 and torch.equal(parameter, before[name])
        else:
            again = bnb.quantize_4bit(before[name], compress_statistics=True, quant_type="nf4")
            assert torch.equal(parameter, again[0]) and parameter.dtype == torch.uint8
            values = bnb.dequantize_4bit(parameter.data, layer.weight.quant_state).float()
            assert torch.equal(values, bnb.dequantize_4bit(*again).float())
            assert (
                0.05 < (values - before[name].float()).norm() / before[name].float().norm() < 0.11
            )
    sizes = {name: p.numel() for name, p in full.named_parameters()}
    assert {name: size for name, _, size in parameter_sizes(packed)} == sizes


def test_it_is_what_plain_transformers_makes_of_the_checkpoint(wide_checkpoint: Path) -> None:
    plain = AutoModelForImageTextToText.from_pretrained(
        wide_checkpoint, quantization_config=nf4_config(torch.float32)
    )
    ours = create_model(open_checkpoint(wide_checkpoint), quantization="nf4")
    for layer in four_bit_layers(plain).values():
        layer.support_avx512bf16_for_cpu = False
    wanted = dict(plain.named_parameters())
    assert all(torch.equal(parameter, wanted[name]) for name, parameter in ours.named_parameters())
    batch = inputs(ours)
    with torch.no_grad():
        truth = {"logits": exact_unpacked(ours)(**exact(batch)).logits}
        found = ({"logits": model.eval()(**batch).logits} for model in (plain, ours))
        assert_as_near(truth, *found)  # SAM's attention is computed in another order


@pytest.mark.parametrize(
    ("kept", "hit"),
    [
        (
            ["lm_head", "vision_model", "high_res_vision_model", "aligner"],
            "'siglip': 12",
        ),  # matched from the start
        (
            [r"model\.(?!language_model\.).*"],
            "'lm_head': 1",
        ),  # a list of one's own replaces the default
        (["lm_head", r"model\.(?!language_model\.).*", "q_proj"], "'language_model': 12"),
    ],
)
def test_a_list_that_hits_other_layers_does_not_pass(
    kept: list[str], hit: str, wide_hybrid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "KEPT", kept)
    with pytest.raises(RuntimeError, match=hit):
        create_model(open_checkpoint(wide_hybrid_checkpoint), quantization="nf4")


def test_bytes_of_a_parameter() -> None:
    layer = nn.Linear(1024, 512, bias=False)
    packed, state = bnb.quantize_4bit(layer.weight.data, compress_statistics=True, quant_type="nf4")
    assert (
        packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    ) / layer.weight.numel() == NF4_BYTES


def test_weights_in_16_bits_are_gone_once_they_are_packed(
    wide_hybrid_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted while the last (or first) tensor is read; a state dict would hold them all."""
    seen: list[int] = []
    read = Weights.read

    def counting(self: Weights, name: str, *rows: slice) -> Tensor:
        if name in ("lm_head.weight", "model.vision_model.post_layernorm.weight"):
            tensors = [o for o in gc.get_objects() if type(o) is Tensor and o.shape == (128, 64)]
            seen.append(sum(t.is_floating_point() and not t.is_meta for t in tensors))
        return read(self, name, *rows)

    gc.collect()
    monkeypatch.setattr(Weights, "read", counting)
    create_model(open_checkpoint(wide_hybrid_checkpoint), torch.bfloat16)
    create_model(open_checkpoint(wide_hybrid_checkpoint), torch.bfloat16, "nf4")
    assert seen == [0, 4, 0, 0]  # gate_proj and up_proj of two layers


def test_only_what_trains_is_float32_and_pixels_still_fit(wide_checkpoint: Path) -> None:
    """peft's prepare_model_for_kbit_training would make the towers float32; the pixels are not."""
    model = adapted(wide_checkpoint, torch.bfloat16, aligner=PartPlan("lora"))
    dtypes = {(p.requires_grad, p.dtype) for p in model.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16), (False, torch.uint8)}
    assert {layer.compute_dtype for layer in four_bit_layers(model).values()} == {torch.bfloat16}
    found = gradients(model, inputs(model, torch.bfloat16))
    assert found and all(grad.isfinite().all() and grad.any() for grad in found.values())


def test_answering_leaves_the_packed_weights_and_their_gradients_as_they_were(
    wide_hybrid_checkpoint: Path,
) -> None:
    """With AVX-512 BF16, bitsandbytes repacks layers that run without gradient and passes none."""
    model = adapted(wide_hybrid_checkpoint).train()
    batch = inputs(model)
    before, packed = gradients(model, batch), {n: p.clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        model.eval().generate(**batch, max_new_tokens=3)
    after = gradients(model.train(), batch)
    assert all(torch.equal(tensor, packed[name]) for name, tensor in model.named_parameters())
    assert all(torch.equal(grad, after[name]) for name, grad in before.items())


def test_gradient_checkpointing_changes_no_gradient(wide_hybrid_checkpoint: Path) -> None:
    """Up to rounding, as on a base in 16 bits, because sums are formed in another order."""
    model = adapted(
        wide_hybrid_checkpoint, aligner=PartPlan("full"), embed_tokens=PartPlan("full")
    ).train()
    batch = inputs(model)
    truth = gradients(exact_unpacked(model), exact(batch))
    plain = gradients(model, batch)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    recomputed = gradients(model, batch)
    assert len(plain) > 28
    assert_as_near(truth, plain, recomputed)


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_plain_peft_loads_the_adapter_on_either_base(
    wide_hybrid_checkpoint: Path, tmp_path: Path, variant: str
) -> None:
    model = adapted(wide_hybrid_checkpoint, variant=variant, aligner=PartPlan("lora")).eval()
    save_trained(model, tmp_path, open_checkpoint(wide_hybrid_checkpoint))
    batch, logits = inputs(model), {}
    for bits, how in {4: {"quantization_config": nf4_config(torch.float32)}, 16: {}}.items():
        base = AutoModelForImageTextToText.from_pretrained(wide_hybrid_checkpoint, **how)
        for layer in four_bit_layers(base).values():
            layer.support_avx512bf16_for_cpu = False
        with torch.no_grad():
            logits[bits] = PeftModel.from_pretrained(base, tmp_path).eval()(**batch).logits
    with torch.no_grad():
        wanted = model(**batch).logits
        truth = exact_unpacked(model)(**exact(batch)).logits
    assert_as_near({"": truth}, {"": logits[4]}, {"": wanted})
    assert 1e-2 < (logits[16] - wanted).abs().mean() < 0.5 * wanted.std()


def test_the_part_in_4_bits_is_not_fully_trained() -> None:
    check_quantization(
        make_plan(
            DEEPSEEK_VL, "qlora", {"embed_tokens": PartPlan("full"), "lm_head": PartPlan("full")}
        ),
        DEEPSEEK_VL.parts,
    )
    check_quantization(make_plan(DEEPSEEK_VL, "align", None), DEEPSEEK_VL.parts)
    with pytest.raises(
        UserError, match="language_model is to be fully trained, but model.quantization"
    ):
        check_quantization(make_plan(DEEPSEEK_VL, "full", None), DEEPSEEK_VL.parts)


@pytest.mark.parametrize("storage", ["loaded", "empty"])
def test_a_width_that_bitsandbytes_unpacks_wrongly_is_refused(
    storage: Storage, hybrid_checkpoint: Path
) -> None:
    with pytest.raises(
        UserError, match=r"q_proj.weight has rows of 48, and a 4-bit base needs multiples of 64"
    ):
        create_model(open_checkpoint(hybrid_checkpoint), quantization="nf4", storage=storage)


def test_bitsandbytes_is_imported_for_a_4_bit_base_only(wide_hybrid_checkpoint: Path) -> None:
    """Also after adapters on another base: peft and transformers remember what they found."""
    script = f"""
import sys, torch
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.build import Adaptation, adapted_model
base = open_checkpoint({str(wide_hybrid_checkpoint)!r})
adapted_model(base, Adaptation(preset="lora", parts={{}}))
print("bitsandbytes" in sys.modules)
model, _ = adapted_model(base, Adaptation(preset="qlora", parts={{}}, quantization="nf4"))
kinds = {{type(module) for module in model.modules() if hasattr(module, "lora_A")}}
print(sorted(kind.__module__ + "." + kind.__name__ for kind in kinds))
"""
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    expected = "False\n['peft.tuners.lora.bnb.Linear4bit']\n"
    assert result.stdout.endswith(expected), result.stderr


def test_a_missing_bitsandbytes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"not installed: pip install 'bitsandbytes>=0.50'"):
        check_quantization(make_plan(DEEPSEEK_VL, "qlora", None), DEEPSEEK_VL.parts)


@pytest.mark.parametrize("place", ["", "text_config."])
def test_a_quantized_checkpoint_is_no_base(
    place: str, wide_hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(wide_hybrid_checkpoint, tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    (content["text_config"] if place else content)["quantization_config"] = {
        "quant_method": "bitsandbytes"
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        UserError, match=rf"config.json: {place}quantization_config says .* Give the checkpoint"
    ):
        create_model(open_checkpoint(tmp_path / "base"))


def test_a_weight_that_is_not_finite_is_named_while_it_streams(
    wide_hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    model = create_model(open_checkpoint(wide_hybrid_checkpoint))
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    with torch.no_grad():
        model.get_parameter(name)[0, 0] = float("nan")
    shutil.copytree(wide_hybrid_checkpoint, tmp_path / "base")
    model.save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match=f"{name} holds values that are not finite"):
        create_model(open_checkpoint(tmp_path / "base"), quantization="nf4")
