"""A run's checkpoints: a file, or a folder of shards that every process writes its own of. Both are read by any run.

A file is what Lightning writes: the trained tensors by name, and torch's optimizer state, whose groups name theirs. A
folder holds the same tensors in torch's distributed form, and the rest as a file beside them.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.files import partial_of, put_in_place, remove, write_whole
from dsvl_tune.models.runtime.fsdp import cut_like
from dsvl_tune.training.checkpoints.files import WholeFileIO

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
        if Path(path).is_dir():
            return read_folder(Path(path), {}, self.optimizer)
        return super().load_checkpoint(path, *arguments, **options)

    def save_checkpoint(
        self, checkpoint: Checkpoint, path: Any, storage_options: Any = None
    ) -> None:
        """As `WholeFileIO.save_checkpoint`; a folder of shards that a killed run left there makes room."""
        if Path(path).is_dir():
            remove(Path(path))
        super().save_checkpoint(checkpoint, path, storage_options)

    def remove_checkpoint(self, path: Any) -> None:
        """Set aside first: a kill leaves no half of a folder under its name.

        It may be gone: a run killed between removing a best checkpoint and its next save does not know of that.
        """
        aside = Path(path).with_name(f".{Path(path).name}.removed")
        with suppress(FileNotFoundError):
            Path(path).replace(aside)
        remove(aside)


def optimizer_names(state: dict[str, Any]) -> dict[int, str]:
    """Number of a parameter in an optimizer's state -> its name."""
    pairs = [
        zip(group["params"], group["param_names"], strict=True) for group in state["param_groups"]
    ]
    return dict(chain.from_iterable(pairs))


def write_folder(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whose tensors are cut over the processes; every process must call it.

    The folder appears when all of it is written. What stood there stays until then.

    Raises:
        UserError: a process could not write its shard (disk full, read-only folder).
    """
    partial = partial_of(path)
    tensors = {
        f"state_dict.{name}": tensor.detach() for name, tensor in checkpoint["state_dict"].items()
    }
    (state,) = checkpoint["optimizer_states"]
    names = optimizer_names(state)
    for number, slots in state["state"].items():
        tensors |= {f"optimizer.{names[number]}.{slot}": tensor for slot, tensor in slots.items()}
    if distributed.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    distributed.barrier()
    try:
        dcp.save(tensors, checkpoint_id=partial)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise UserError(
            f"{path}: could not be written ({cause}). What was there before is untouched. Make room, or give another "
            "folder by --run_dir."
        ) from error
    if distributed.get_rank() == 0:
        groups = {"state": {}, "param_groups": state["param_groups"]}
        rest = {**checkpoint, "state_dict": {}, "optimizer_states": [groups]}
        write_whole(partial / REST, lambda file: torch.save(rest, file))
        put_in_place(partial, path)
    distributed.barrier()


def without_shards(path: Path) -> Checkpoint:
    """What torch's own file of a checkpoint holds, mapped: all of it, or of a folder what is not in the shards."""
    checkpoint: Checkpoint = torch.load(
        path / REST if path.is_dir() else path, map_location="cpu", mmap=True, weights_only=True
    )
    return checkpoint


def read_folder(path: Path, like: dict[str, Tensor], optimizer: bool) -> Checkpoint:
    """Read a folder of shards; no process needs another for it.

    Args:
        path: of the folder. like: tensors by name, cut as those read and their optimizer state shall be; what is not
            named is read whole. optimizer: whether to read its state.
    """
    checkpoint = without_shards(path)
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
            wanted[key] = torch.empty_like(
                template, dtype=stored.properties.dtype, requires_grad=False
            )
        else:
            wanted[key] = torch.empty(stored.size, dtype=stored.properties.dtype)
    load_here(wanted, path)
    return {key.removeprefix(prefix): tensor for key, tensor in wanted.items()}


def load_here(tensors: dict[str, Tensor], path: Path) -> None:
    """Fill tensors, by their keys, from a folder of shards; each process for itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # which is meant
        dcp.load(tensors, checkpoint_id=path, no_dist=True)


def trained_tensors(path: Path) -> tuple[set[str], Callable[[str], Tensor]]:
    """The names of the trained tensors in a file or a folder of shards, and what reads one of them."""
    if path.is_file():
        state: dict[str, Tensor] = read_checkpoint(path, {}, optimizer=False)[
            "state_dict"
        ]  # mapped
        return set(state), state.__getitem__
    prefix = "state_dict."
    stored = {
        key.removeprefix(prefix): entry
        for key, entry in dcp.FileSystemReader(path).read_metadata().state_dict_metadata.items()
        if key.startswith(prefix)
    }

    def read(name: str) -> Tensor:
        tensor = torch.empty(stored[name].size, dtype=stored[name].properties.dtype)  # type: ignore[union-attr]
        load_here({prefix + name: tensor}, path)
        return tensor

    return set(stored), read


def over_tensors(checkpoint: Checkpoint, change: Callable[[str, Tensor], Tensor]) -> Checkpoint:
    """A checkpoint with its trained tensors and the optimizer's changed; `change` gets the name of the trained one."""
    states = []
    for state in checkpoint.get("optimizer_states", []):
        names = optimizer_names(state)
        changed = {
            i: {k: change(names[i], t) for k, t in slots.items()}
            for i, slots in state["state"].items()
        }
        states.append({**state, "state": changed})
    tensors = {name: change(name, tensor) for name, tensor in checkpoint["state_dict"].items()}
    return {**checkpoint, "state_dict": tensors, "optimizer_states": states}


def read_checkpoint(path: Path, like: dict[str, Tensor], optimizer: bool) -> Checkpoint:
    """Read a file or a folder of shards, the tensors cut as those of `like` are; arguments as for `read_folder`."""
    if path.is_dir():
        return read_folder(path, like, optimizer)
    # Mapped, because a process of a sharded run keeps its own rows alone.
    checkpoint = without_shards(path)
    return over_tensors(
        checkpoint, lambda name, tensor: cut_like(tensor, like[name]) if name in like else tensor
    )
