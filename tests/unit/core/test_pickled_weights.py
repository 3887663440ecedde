"""Weights that torch.save wrote: of which family they are read, and nothing but tensors."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dsvl_tune.core.checkpoint.pickled_weights import pickled_tensors
from dsvl_tune.core.errors import UserError
from dsvl_tune.export.merge_adapter import merge_into
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.weights import Weights

GOLDEN = Path(__file__).parents[2] / "golden"


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def with_pickles(folder: Path, base: Path, shards: int) -> Path:
    """A copy of a checkpoint with its weights in files of torch.save."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors, places = load_file(base / "model.safetensors"), {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = {key: tensors[key] for key in list(tensors)[number::shards]}
        torch.save(part, folder / (name if shards > 1 else "pytorch_model.bin"))
        places |= dict.fromkeys(part, name)
    if shards > 1:
        index = folder / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_they_come_back_as_safetensors_equal_tensor_by_tensor(tmp_path: Path, shards: int) -> None:
    base = GOLDEN / "janus" / "checkpoint"
    pickled = open_checkpoint(with_pickles(tmp_path / "pickled", base, shards))
    for layout, out in (("transformers", "there"), ("original", "back")):
        (tmp_path / out).mkdir()
        source = pickled if out == "there" else open_checkpoint(tmp_path / "there")
        merge_into(Weights(source), {}, tmp_path / out, layout, None)  # type: ignore[arg-type]
    assert not list((tmp_path / "back").glob("*.bin*"))
    files = sorted((tmp_path / "back").glob("*.safetensors"))
    assert len(files) == shards
    wanted = load_file(base / "model.safetensors")
    found = {name: tensor for path in files for name, tensor in load_file(path).items()}
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert tensor.dtype == found[name].dtype and torch.equal(tensor, found[name]), name


@pytest.mark.parametrize("base", ["siglip", "hybrid"])
def test_other_families_do_not_read_them(tmp_path: Path, base: str) -> None:
    folder = with_pickles(tmp_path / "pickled", GOLDEN / base / "checkpoint", 1)
    with pytest.raises(UserError, match="pytorch_model.bin is a pickle"):
        Weights(open_checkpoint(folder))


def test_they_are_not_read_in_transformers_layout(tmp_path: Path, janus_checkpoint: Path) -> None:
    folder = with_pickles(tmp_path / "pickled", janus_checkpoint, 1)
    with pytest.raises(UserError, match="pytorch_model.bin is a pickle"):
        Weights(open_checkpoint(folder))


def test_safetensors_come_first(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    shutil.copytree(GOLDEN / "janus" / "checkpoint", folder)
    torch.save({}, folder / "pytorch_model.bin")
    assert len(open_checkpoint(folder).headers) == 228


def test_nothing_that_a_file_brings_is_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "was_run", tmp_path / "pytorch_model.bin"
    torch.save({"weight": torch.zeros(2), "payload": Payload(marker)}, path)
    with pytest.raises(UserError, match="nothing else is read from it"):
        pickled_tensors(path)
    assert not marker.exists()


def test_what_other_libraries_allow_is_not_allowed(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"weight": nn.Linear(2, 2)}, path)
    classes = [nn.Linear, set]
    with torch.serialization.safe_globals(classes):
        with pytest.raises(UserError, match="nothing else is read from it"):
            pickled_tensors(path)
        assert set(classes) <= set(torch.serialization.get_safe_globals())


def test_parameters_and_views_are_tensors(tmp_path: Path) -> None:
    path, whole = tmp_path / "pytorch_model.bin", torch.arange(6.0).view(2, 3)
    wanted = OrderedDict(a=nn.Parameter(whole), b=whole[:, 1], c=whole.bfloat16())
    torch.save(wanted, path)
    found = pickled_tensors(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list"),
        ({"state_dict": {"weight": torch.zeros(1)}}, "'state_dict' is a dict"),
        ({"step": 3}, "'step' is a int"),
        ({"weight": torch.zeros(2, 2).to_sparse()}, "'weight' is a Tensor"),
    ],
)
def test_only_plain_tensors_by_name(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=message):
        pickled_tensors(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "old", "zip", "script"])
def test_damaged_and_foreign_files_are_one_error(tmp_path: Path, damage: str) -> None:
    path, tensors = tmp_path / "pytorch_model.bin", {"weight": torch.zeros(300)}
    torch.save(tensors, path, _use_new_zipfile_serialization=damage != "old")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-700])
    elif damage in ("garbage", "empty"):
        path.write_bytes(b"\x80\x02garbage" if damage == "garbage" else b"")
    elif damage == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
    elif damage == "script":
        torch.jit.script(nn.Linear(2, 2)).save(path)
    with pytest.raises(UserError, match="pytorch_model.bin: expected a file"):
        pickled_tensors(path)
