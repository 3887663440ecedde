"""Adapters of SigLIP, whose layers have other names in releases of transformers before 5."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from random_training import SAME, apart, logits, train_randomly
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan
from dsvl_tune.export.merge_adapter import read_changes
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import load_trained, save_trained

CURRENT = "base_model.model.model.vision_model.encoder."
EARLIER = "base_model.model.model.vision_model.vision_model.encoder."
WEIGHTS = "adapter_model.safetensors"
PARTS = {"siglip": PartPlan("lora", rank=3), "language_model": PartPlan("lora", rank=2)}


@pytest.fixture(scope="module")
def trained(
    hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Tensor]:
    """A folder with adapters of SigLIP, and the logits of the model that it was saved from."""
    folder = tmp_path_factory.mktemp("adapter")
    model = train_randomly(hybrid_checkpoint, PARTS)
    save_trained(model, folder, open_checkpoint(hybrid_checkpoint))
    return folder, logits(model)


def tensors_of(folder: Path) -> tuple[dict[str, Tensor], set[str], set[str]]:
    """All tensors of an adapter, and SigLIP's names in current and in earlier releases."""
    tensors = load_file(folder / WEIGHTS)
    current = {name for name in tensors if name.startswith(CURRENT)}
    return tensors, current, {name for name in tensors if name.startswith(EARLIER)}


def copy_with(folder: Path, tensors: dict[str, Tensor], target: Path) -> Path:
    """The same adapter with other tensors."""
    (target / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    save_file(tensors, target / WEIGHTS)
    return target


def test_both_names_are_written_and_read_as_one_adapter(
    hybrid_checkpoint: Path, trained: tuple[Path, Tensor]
) -> None:
    folder, wanted = trained
    tensors, current, earlier = tensors_of(folder)
    assert current and {name.replace(EARLIER, CURRENT) for name in earlier} == current
    assert all(torch.equal(tensors[n], tensors[n.replace(EARLIER, CURRENT)]) for n in earlier)
    model = create_model(open_checkpoint(hybrid_checkpoint))
    load_trained(model, folder)
    assert apart(logits(model), wanted) <= SAME
    layers = [n for n in read_changes(folder, DEEPSEEK_VL) if "vision_model" in n]
    assert len(layers) == len(current) / 2


def test_peft_takes_its_own_names_without_a_warning(
    hybrid_checkpoint: Path, trained: tuple[Path, Tensor]
) -> None:
    folder, wanted = trained
    base = AutoModelForImageTextToText.from_pretrained(hybrid_checkpoint)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, folder)
    assert not [str(one.message) for one in caught if "adapter" in str(one.message)]
    assert apart(logits(model.eval()), wanted) <= SAME


@pytest.mark.parametrize("left_out", [CURRENT, EARLIER])
def test_an_adapter_that_one_release_saved_is_read(
    hybrid_checkpoint: Path, trained: tuple[Path, Tensor], tmp_path: Path, left_out: str
) -> None:
    """peft saves the names of the release that it runs on."""
    folder, wanted = trained
    tensors = {n: t for n, t in tensors_of(folder)[0].items() if not n.startswith(left_out)}
    model = create_model(open_checkpoint(hybrid_checkpoint))
    load_trained(model, copy_with(folder, tensors, tmp_path))
    assert apart(logits(model), wanted) <= SAME


def other_value(tensor: Tensor) -> Tensor:
    return tensor + 1


def other_dtype(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16)


@pytest.mark.parametrize("change", [other_value, other_dtype])
def test_copies_that_differ_are_refused(
    hybrid_checkpoint: Path,
    trained: tuple[Path, Tensor],
    tmp_path: Path,
    change: Callable[[Tensor], Tensor],
) -> None:
    folder, _ = trained
    tensors, _, earlier = tensors_of(folder)
    name = min(earlier)
    copy_with(folder, tensors | {name: change(tensors[name])}, tmp_path)
    with pytest.raises(UserError, match="the same adapter for two releases of transformers"):
        read_changes(tmp_path, DEEPSEEK_VL)
    with pytest.raises(UserError, match="the same adapter for two releases of transformers"):
        load_trained(create_model(open_checkpoint(hybrid_checkpoint)), tmp_path)
