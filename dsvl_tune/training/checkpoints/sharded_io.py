"""Run checkpoints as one file or as a folder of shards; any run reads both.

A file is what Lightning writes: the trained tensors by name, and torch's optimizer state, whose
groups name their parameters. A folder holds the same tensors in torch's distributed format, each
rank writing its own shard, and everything else in one file next to them.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.tensor import DTensor

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import atomic_write, partial_of, put_in_place, remove
from dsvl_tune.models.runtime.fsdp import cut_like
from dsvl_tune.training.checkpoints.files import REST, AtomicCheckpointIO, load_torch_file
from dsvl_tune.training.checkpoints.shard_checksums import write_checksums
from dsvl_tune.training.checkpoints.shard_metadata import read_metadata
from dsvl_tune.training.checkpoints.shard_reader import fill_from_shards

MODEL_PREFIX = "state_dict."
"""Prefix of the trained tensors' keys in the shards."""
OPTIMIZER_PREFIX = "optimizer."
"""Prefix of the optimizer state's keys in the shards, followed by parameter name and slot."""

RunCheckpoint = dict[str, Any]
"""What Lightning collects for a checkpoint: `state_dict`, `optimizer_states`, loops, callbacks."""


class RunCheckpointIO(AtomicCheckpointIO):
    """Reads files and folders of shards in a single process; writes files atomically.

    Args:
        optimizer: whether to read the optimizer state, the larger part, from a folder.
    """

    def __init__(self, optimizer: bool) -> None:
        self.optimizer = optimizer

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> RunCheckpoint:
        if Path(path).is_dir():
            return read_folder(Path(path), {}, self.optimizer)
        return load_torch_file(Path(path))

    def save_checkpoint(
        self, checkpoint: RunCheckpoint, path: Any, storage_options: Any = None
    ) -> None:
        """As `AtomicCheckpointIO`; replaces a folder of shards that a killed run left there."""
        if Path(path).is_dir():
            remove(Path(path))
        super().save_checkpoint(checkpoint, path, storage_options)

    def remove_checkpoint(self, path: Any) -> None:
        """Rename first, so that a kill leaves no half of a folder under its name.

        The checkpoint may be gone already: a run that was killed between removing a best checkpoint
        and its next save does not know about the removal.
        """
        aside = Path(path).with_name(f".{Path(path).name}.removed")
        with suppress(FileNotFoundError):
            Path(path).replace(aside)
        remove(aside)


def optimizer_names(state: dict[str, Any]) -> dict[int, str]:
    """Number of a parameter in an optimizer state -> its name."""
    names: dict[int, str] = {}
    for group in state["param_groups"]:
        names.update(zip(group["params"], group["param_names"], strict=True))
    return names


def write_folder(path: Path, checkpoint: RunCheckpoint) -> None:
    """Write a checkpoint of sharded tensors; every rank must call this.

    The folder appears when all of it is written; an existing one stays until then.

    Args:
        path: of the folder.
        checkpoint: its tensors are DTensors of any shape and dtype.

    Raises:
        UserError: a rank could not write its shard (disk full, read-only folder).
    """
    partial = partial_of(path)
    (state,) = checkpoint["optimizer_states"]
    if distributed.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    distributed.barrier()
    try:
        dcp.save(_sharded_tensors(checkpoint, state), checkpoint_id=partial)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise UserError(
            f"{path}: could not be written ({cause}). Earlier checkpoints are unchanged. Free some "
            "disk space or choose another --run_dir."
        ) from error
    write_checksums(partial)
    if distributed.get_rank() == 0:
        groups = {"state": {}, "param_groups": state["param_groups"]}
        rest = {**checkpoint, "state_dict": {}, "optimizer_states": [groups]}
        atomic_write(partial / REST, lambda file: torch.save(rest, file))
        put_in_place(partial, path)
    distributed.barrier()


def _sharded_tensors(checkpoint: RunCheckpoint, state: dict[str, Any]) -> dict[str, Tensor]:
    """The trained tensors and the optimizer's, by their keys in the shards.

    They have the shapes of the trained parameters (or [] for a count of steps), any dtype.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in checkpoint["state_dict"].items():
        tensors[f"{MODEL_PREFIX}{name}"] = tensor.detach()
    names = optimizer_names(state)
    for number, slots in state["state"].items():
        for slot, tensor in slots.items():
            tensors[f"{OPTIMIZER_PREFIX}{names[number]}.{slot}"] = tensor
    return tensors


def without_shards(path: Path) -> RunCheckpoint:
    """The part of a checkpoint that is one torch file, memory-mapped.

    Everything of a checkpoint file; of a folder, everything but the shards.
    """
    return load_torch_file(path / REST if path.is_dir() else path, mapped=True)


def read_folder(path: Path, like: dict[str, Tensor], optimizer: bool) -> RunCheckpoint:
    """Read a folder of shards; needs no communication between ranks.

    Args:
        path: of the folder.
        like: tensors of any shape and dtype by name. A tensor of that name and its optimizer state
            are read sharded as it is; all others are read whole.
        optimizer: whether to read the optimizer state.
    """
    checkpoint = without_shards(path)
    checkpoint["state_dict"] = read_tensors(path, MODEL_PREFIX, like)
    if optimizer:
        states = checkpoint.get("optimizer_states") or [{"state": {}, "param_groups": []}]
        (state,) = checkpoint["optimizer_states"] = states
        numbers = {name: number for number, name in optimizer_names(state).items()}
        state["state"] = {number: {} for number in numbers.values()}
        for key, tensor in read_tensors(path, OPTIMIZER_PREFIX, like).items():
            name, _, slot = key.rpartition(".")
            if name not in numbers:
                raise UserError(
                    f"{path}: the optimizer state of {name!r}, which {REST} does not list. Use "
                    "another checkpoint, or start a new run with --resume never."
                )
            state["state"][numbers[name]][slot] = tensor
    return checkpoint


def read_tensors(path: Path, prefix: str, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a folder of shards whose keys start with a prefix, by the rest of the key.

    Args:
        path: of the folder.
        prefix: `MODEL_PREFIX` or `OPTIMIZER_PREFIX`.
        like: as in `read_folder`.

    Returns:
        Of the shapes and dtypes that were saved.
    """
    wanted: dict[str, Tensor] = {}
    found = read_metadata(path)
    for key, stored in found.state_dict_metadata.items():
        if not key.startswith(prefix):
            continue
        assert isinstance(stored, TensorStorageMetadata), key
        name = key.removeprefix(prefix)
        template = like.get(name, like.get(name.rpartition(".")[0]))
        dtype = stored.properties.dtype
        if isinstance(template, DTensor) and template.shape == stored.size:
            wanted[key] = torch.empty_like(template, dtype=dtype, requires_grad=False)
        else:
            wanted[key] = torch.empty(stored.size, dtype=dtype)
    _fill_quietly(wanted, path, found)
    return {key.removeprefix(prefix): tensor for key, tensor in wanted.items()}


def _fill_quietly(tensors: dict[str, Tensor], path: Path, found: Metadata) -> None:
    """`fill_from_shards` without torch's warning that no process group is used.

    Args:
        tensors: by key, of the shapes and dtypes that were saved; filled in place.
        path: of the folder.
        found: its metadata.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # intended
        fill_from_shards(tensors, path, found)


def trained_tensors(path: Path) -> tuple[set[str], Callable[[str], Tensor]]:
    """The names of the trained tensors in a checkpoint, and a function that reads one of them.

    It gives a tensor of the shape and dtype of the parameter that was trained.
    """
    if path.is_file():
        state: dict[str, Tensor] = read_checkpoint(path, {}, optimizer=False)["state_dict"]
        return set(state), state.__getitem__
    found = read_metadata(path)
    stored = {
        key.removeprefix(MODEL_PREFIX): entry
        for key, entry in found.state_dict_metadata.items()
        if key.startswith(MODEL_PREFIX)
    }

    def read(name: str) -> Tensor:
        entry = stored[name]
        assert isinstance(entry, TensorStorageMetadata), name
        tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
        _fill_quietly({f"{MODEL_PREFIX}{name}": tensor}, path, found)
        return tensor

    return set(stored), read


def over_tensors(
    checkpoint: RunCheckpoint, change: Callable[[str, Tensor], Tensor]
) -> RunCheckpoint:
    """A checkpoint with a function applied to its trained tensors and their optimizer state.

    Args:
        checkpoint: not modified.
        change: takes the name of the trained tensor, and that tensor or one of its optimizer slots,
            of any shape and dtype.
    """
    states = []
    for state in checkpoint.get("optimizer_states", []):
        names = optimizer_names(state)
        changed: dict[int, dict[str, Tensor]] = {}
        for number, slots in state["state"].items():
            changed[number] = {
                slot: change(names[number], tensor) for slot, tensor in slots.items()
            }
        states.append({**state, "state": changed})
    tensors = {name: change(name, tensor) for name, tensor in checkpoint["state_dict"].items()}
    return {**checkpoint, "state_dict": tensors, "optimizer_states": states}


def read_checkpoint(path: Path, like: dict[str, Tensor], optimizer: bool) -> RunCheckpoint:
    """Read a checkpoint file or folder, its tensors sharded as those of `like`.

    Args:
        path: of the file or folder.
        like: as in `read_folder`, of any shape and dtype.
        optimizer: whether to read the optimizer state from a folder.
    """
    if path.is_dir():
        return read_folder(path, like, optimizer)
    checkpoint = without_shards(path)  # memory-mapped: each rank copies its own rows only
    return over_tensors(
        checkpoint,
        lambda name, tensor: cut_like(tensor, like[name]) if name in like else tensor,
    )
