"""What `merge` verifies: a right result passes in every dtype, the smallest damage does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_training import train_randomly
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.types import Prompts
from dsvl_tune.export.merge_adapter import Change, apply_changes, merge_into, read_changes
from dsvl_tune.export.verify import answer, exact_logits, first_rows, other_neighbor, verify
from dsvl_tune.export.write_weights import compare_weights, is_rounded
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import save_trained

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PARTS = {
    "language_model": PartPlan("lora", rank=4),
    "siglip": PartPlan("lora", rank=2, alpha=3),
    "lm_head": PartPlan("full"),
}
LAYER = "model.language_model.layers.1.mlp.up_proj.weight"


def train(base: Path, folder: Path, variant: Any = "lora") -> Path:
    """An adapter folder whose every tensor moved, by about a hundredth of the weights."""
    model = train_randomly(base, PARTS, variant, noise=0.02)
    save_trained(model, folder / "adapter", open_checkpoint(base))
    return folder / "adapter"


def prompts_for(base: Path) -> Prompts:
    """Three left-padded rows: text, one image, another image."""
    torch.manual_seed(0)
    config = open_checkpoint(base).config
    ids = torch.randint(10, 400, (3, 30))
    ids[1:, 8:24] = config.image_token_id
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    vision_inputs = {"pixel_values": torch.randn(2, 3, 32, 32)}
    if config.model_type == "deepseek_vl_hybrid":
        vision_inputs["high_res_pixel_values"] = torch.randn(2, 3, 64, 64)
    return Prompts(
        input_ids=ids,
        attention_mask=mask,
        vision_inputs=vision_inputs,
        image_counts=[0, 1, 1],
        image_index=torch.tensor([0, 1]),
        references=[],
        question_types=[],
        questions=[],
        sources=[],
        numbers=[],
    )


def write(base: Path, changes: dict[str, Change], target: Path, dtype: str = "float32") -> Path:
    target.mkdir()
    weights = Weights(open_checkpoint(base))
    merge_into(weights, changes, target, "transformers", DTYPES[dtype])
    return target


def verify_folders(base: Path, adapter: Path, written: Path) -> dict[str, Any]:
    return verify(open_checkpoint(base), adapter, open_checkpoint(written), prompts_for(base))


@pytest.mark.parametrize("variant", ["lora", "dora"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_merge_passes(checkpoint: Path, tmp_path: Path, dtype: str, variant: str) -> None:
    adapter = train(checkpoint, tmp_path, variant)
    written = write(checkpoint, read_changes(adapter, DEEPSEEK_VL), tmp_path / "merged", dtype)
    report = verify_folders(checkpoint, adapter, written)
    exact = report["float64"]
    assert exact["rows"] == 2 and report["rows"] == 3
    assert (
        exact["reload_difference"] <= exact["reload_bound"] <= 1e-6 * report["float32_noise"]["max"]
    )
    assert exact["mean_logit_difference"] <= exact["mean_bound"] < 0.05 * report["logit_spread"]


def with_tensor(change: Callable[[Tensor], Tensor], name: str = LAYER) -> Callable[[Path], None]:
    """A damage to one written tensor."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors[name] = change(tensors[name].clone()).contiguous()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def last_bit(tensor: Tensor) -> Tensor:
    """One value of the tensor, off by the least that its dtype can tell."""
    integers = tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)
    integers[3, 5] += 1
    return tensor


def with_text_config(**settings: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["text_config"].update(settings)
        path.write_text(json.dumps(config), encoding="utf-8")

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "last bit of a value in an adapted tensor": with_tensor(last_bit),
    "last bit of a value in a fully trained tensor": with_tensor(last_bit, "lm_head.weight"),
    "last bit of a value in a tensor of the base": with_tensor(
        last_bit, "model.language_model.embed_tokens.weight"
    ),
    "rows of a tensor in another order": with_tensor(lambda tensor: tensor.flip(0)),
    "epsilon of the norms a thousandth larger": with_text_config(rms_norm_eps=1.001e-6),
    "rotary base a thousandth larger": with_text_config(
        rope_parameters={"rope_type": "default", "rope_theta": 10010.0}
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_after_writing_is_refused(
    checkpoint: Path, tmp_path: Path, name: str, dtype: str
) -> None:
    adapter = train(checkpoint, tmp_path)
    changes = read_changes(adapter, DEEPSEEK_VL)
    written = write(checkpoint, changes, tmp_path / "merged", dtype)
    DAMAGES[name](written)
    with pytest.raises(UserError, match="Nothing was kept"):
        verify_folders(checkpoint, adapter, written)
    if not name.startswith(("epsilon", "rotary")):
        base, after = (Weights(open_checkpoint(folder)) for folder in (checkpoint, written))
        with pytest.raises(UserError, match="Nothing was kept"):
            compare_weights(base, after, apply_changes(changes), DTYPES[dtype])


def leave_out(changes: dict[str, Change]) -> None:
    del changes[LAYER]


def scale(changes: dict[str, Change]) -> None:
    """By a thousandth, in one layer."""
    changes[LAYER].scaling *= 1.001


def swap(changes: dict[str, Change]) -> None:
    """The adapters of two layers of the same shape."""
    other = LAYER.replace("up_proj", "gate_proj")
    changes[LAYER], changes[other] = changes[other], changes[LAYER]


def forget_magnitude(changes: dict[str, Change]) -> None:
    changes[LAYER].magnitude = None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("fault", "variant"),
    [
        *((fault, "lora") for fault in (leave_out, scale, swap)),
        *((fault, "dora") for fault in (scale, forget_magnitude)),
    ],
)
def test_a_fault_of_merging_is_refused(
    checkpoint: Path,
    tmp_path: Path,
    fault: Callable[[dict[str, Change]], None],
    variant: str,
    dtype: str,
) -> None:
    """The files are read back as written; only peft's own merge shows that they are wrong."""
    adapter = train(checkpoint, tmp_path, variant)
    changes = read_changes(adapter, DEEPSEEK_VL)
    fault(changes)
    written = write(checkpoint, changes, tmp_path / "merged", dtype)
    with pytest.raises(
        UserError, match=r"up_proj.weight is not what peft makes|gate_proj.weight is not what peft"
    ):
        verify_folders(checkpoint, adapter, written)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_single_rounding_and_its_other_neighbor(dtype: torch.dtype) -> None:
    """By definition: no value of the dtype is nearer, and the exact one lies between the two."""
    torch.manual_seed(1)
    exact = torch.cat(
        [torch.randn(400, dtype=torch.float64) * 10.0**power for power in range(-7, 4)]
    )
    exact = torch.cat([exact, torch.tensor([0.0, -0.0, 1.0, -2.5], dtype=torch.float64)])
    written = exact.to(dtype)
    other = other_neighbor(exact, written)
    assert is_rounded(exact, written)
    near, far = (written.double() - exact, other.double() - exact)
    assert bool((near.abs() <= far.abs()).all())
    assert bool(((near == 0) == (other == written)).all())
    assert bool((near * far <= 0).all())
    for place in torch.nonzero(near).flatten()[::97]:
        wrong = written.clone()
        wrong[place] = other[place]
        slack = (2**-40 + (dtype != torch.float32) * 2**-24) * exact[place].abs()
        tie = far[place].abs() - near[place].abs() <= slack
        alone = slice(int(place), int(place) + 1)
        assert is_rounded(exact[alone], wrong[alone]) == bool(tie)


def test_float64_is_what_its_name_says(checkpoint: Path) -> None:
    """Rows alone and together agree to float64's rounding; the model comes out as it went in."""
    model, prompts = create_model(open_checkpoint(checkpoint)), prompts_for(checkpoint)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one = first_rows(prompts, 1)
    two = first_rows(prompts, 2)
    assert (one.vision_inputs, len(two.image_index)) == ({}, 1)
    exact = exact_logits(model, prompts)
    assert exact.dtype == torch.float64
    for alone in (one, two):
        found = exact_logits(model, alone)
        assert (found - exact[: len(found)]).abs().max() <= 1e-12 * exact.std()
    float32 = (answer(model, prompts)[0] - exact).abs().max()
    assert 1e-8 * exact.std() < float32 < 1e-4 * exact.std()
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
