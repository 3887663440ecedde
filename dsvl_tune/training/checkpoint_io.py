"""A run's checkpoints: a file, or a folder of shards that every process writes its own of. Both are read by any run.

A file is what Lightning writes: the trained tensors by name, and torch's optimizer state, whose groups name theirs. A
folder holds the same tensors in torch's distributed form, and the rest as a file beside them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, distributed
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from dsvl_tune.files import partial_of, put_in_place, settle
from dsvl_tune.models.sharding import cut_like
from dsvl_tune.training.checkpoints import WholeFileIO

REST = "rest.pt"
"""In a folder of shards: all of the checkpoint that is no tensor of the model or the optimizer."""

Checkpoint = dict[str, Any]


class RunCheckpointIO(WholeFileIO):
    """Reads files and folders of shards in one process; writes files, whole or not at all.

    Args:
        optimizer: whether to read the optimizer's state, the larger part, from a folder.
    """

    def __init__(self, optimizer: bool) -> None:
        self.optimizer = optimizer

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> Checkpoint:
        settle(Path(path))
        if Path(path).is_dir():
            return read_folder(Path(path), {}, self.optimizer)
        return super().load_checkpoint(path, *arguments, **options)


def optimizer_names(state: dict[str, Any]) -> dict[int, str]:
    """Number of a parameter in an optimizer's state -> its name."""
    pairs = [zip(group["params"], group["param_names"], strict=True) for group in state["param_groups"]]
    return dict(chain.from_iterable(pairs))


def write_folder(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whose tensors are cut over the processes; every process must call it.

    The folder appears when all of it is written. What stood there stays until then.
    """
    partial = partial_of(path)
    tensors = {f"state_dict.{name}": tensor.detach() for name, tensor in checkpoint["state_dict"].items()}
    (state,) = checkpoint["optimizer_states"]
    names = optimizer_names(state)
    for number, slots in state["state"].items():
        tensors |= {f"optimizer.{names[number]}.{slot}": tensor for slot, tensor in slots.items()}
    if distributed.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    distributed.barrier()
    dcp.save(tensors, checkpoint_id=partial)
    if distributed.get_rank() == 0:
        groups = {"state": {}, "param_groups": state["param_groups"]}
        torch.save({**checkpoint, "state_dict": {}, "optimizer_states": [groups]}, partial / REST)
        put_in_place(partial, path)
    distributed.barrier()


def read_folder(path: Path, like: dict[str, Tensor], optimizer: bool) -> Checkpoint:
    """Read a folder of shards; no process needs another for it.

    Args:
        path: of the folder. like: tensors by name, cut as those read and their optimizer state shall be; what is not
            named is read whole. optimizer: whether to read its state.
    """
    checkpoint: Checkpoint = torch.load(path / REST, map_location="cpu", weights_only=True)
    checkpoint["state_dict"] = read_tensors(path, "state_dict.", like)
    if optimizer:
        (state,) = checkpoint["optimizer_states"]
        numbers = {name: number for number, name in optimizer_names(state).items()}
        state["state"] = {number: {} for number in numbers.values()}
        for key, tensor in read_tensors(path, "optimizer.", like).items():
            name, _, slot = key.rpartition(".")
            state["state"][numbers[name]][slot] = tensor
    return checkpoint


def read_tensors(path: Path, prefix: str, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a folder of shards whose keys begin with a prefix, by the rest of their keys."""
    wanted: dict[str, Tensor] = {}
    for key, stored in dcp.FileSystemReader(path).read_metadata().state_dict_metadata.items():
        if not key.startswith(prefix):
            continue
        assert isinstance(stored, TensorStorageMetadata), key
        name = key.removeprefix(prefix)
        template = like.get(name, like.get(name.rpartition(".")[0]))
        if isinstance(template, DTensor) and template.shape == stored.size:
            wanted[key] = torch.empty_like(template, dtype=stored.properties.dtype, requires_grad=False)
        else:
            wanted[key] = torch.empty(stored.size, dtype=stored.properties.dtype)
    dcp.load(wanted, checkpoint_id=path, no_dist=True)
    return {key.removeprefix(prefix): tensor for key, tensor in wanted.items()}


def over_tensors(checkpoint: Checkpoint, change: Callable[[str, Tensor], Tensor]) -> Checkpoint:
    """A checkpoint with its trained tensors and the optimizer's changed; `change` gets the name of the trained one."""
    states = []
    for state in checkpoint.get("optimizer_states", []):
        names = optimizer_names(state)
        changed = {i: {k: change(names[i], t) for k, t in slots.items()} for i, slots in state["state"].items()}
        states.append({**state, "state": changed})
    tensors = {name: change(name, tensor) for name, tensor in checkpoint["state_dict"].items()}
    return {**checkpoint, "state_dict": tensors, "optimizer_states": states}


def read_checkpoint(path: Path, like: dict[str, Tensor], optimizer: bool) -> Checkpoint:
    """Read a file or a folder of shards, the tensors cut as those of `like` are; arguments as for `read_folder`."""
    settle(path)
    if path.is_dir():
        return read_folder(path, like, optimizer)
    # Mapped, because a process of a sharded run keeps its own rows alone.
    checkpoint: Checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return over_tensors(checkpoint, lambda name, tensor: cut_like(tensor, like[name]) if name in like else tensor)
