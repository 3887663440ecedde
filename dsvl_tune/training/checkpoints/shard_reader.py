"""Reading torch's distributed checkpoints without unpickling what they bring.

torch's own reader unpickles `.metadata`, which can run code, and its default planner unpickles
every entry that is not a tensor. Here `.metadata` may name only the classes that torch writes
there, and only tensors are read.
"""

from __future__ import annotations

import io
import pathlib
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.planner import ReadItem

from dsvl_tune.core.errors import UserError

METADATA = ".metadata"
"""The file that torch writes last, with the names, shapes and places of all tensors."""

_DTYPES = [name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)]

ALLOWED: dict[tuple[str, str], Any] = {
    ("pathlib", "PosixPath"): pathlib.PurePosixPath,
    ("pathlib", "WindowsPath"): pathlib.PureWindowsPath,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): {str(torch.strided): torch.strided}.__getitem__,
    (filesystem.__name__, "_StorageInfo"): filesystem._StorageInfo,
    **{("torch", name): getattr(torch, name) for name in _DTYPES},
    **{
        (metadata.__name__, name): getattr(metadata, name)
        for name in (
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    },
}
"""Module and name of everything that `.metadata` may refer to -> what stands for it here."""


class _MetadataUnpickler(pickle.Unpickler):
    """Unpickles `.metadata`; refuses every name that is not in `ALLOWED`."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def read_metadata(folder: Path) -> metadata.Metadata:
    """The names, shapes and places of all tensors in a folder of shards.

    Args:
        folder: of the checkpoint; may come from anyone.

    Raises:
        UserError: `.metadata` is missing, damaged, or not what torch writes.
    """
    path = folder / METADATA
    try:
        found = _MetadataUnpickler(io.BytesIO(path.read_bytes())).load()
    except FileNotFoundError:
        raise UserError(f"{folder}: no {METADATA} in this checkpoint folder.") from None
    except Exception as error:  # damaged bytes can raise almost anything
        raise _unreadable(path, str(error)) from None
    if not isinstance(found, metadata.Metadata):
        raise _unreadable(path, f"found {type(found).__name__}")
    for key, entry in found.state_dict_metadata.items():
        if not isinstance(entry, metadata.TensorStorageMetadata):
            raise _unreadable(path, f"{key!r} is not a tensor")
    for place in found.storage_data.values():
        name = getattr(place, "relative_path", "")
        if Path(name).name != name:
            raise _unreadable(path, f"{name!r} is not a file in this folder")
    return found


def _unreadable(path: Path, reason: str) -> UserError:
    """The error for a `.metadata` file that torch has not written, or that was damaged."""
    return UserError(
        f"{path}: not the metadata of a checkpoint ({reason}). Nothing was loaded from it. Use "
        "another checkpoint, or start a new run with --resume never."
    )


class ShardReader(dcp.FileSystemReader):
    """torch's reader of a folder of shards, with safe metadata."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        found = read_metadata(Path(self.path))
        found.storage_meta = found.storage_meta or metadata.StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class TensorsOnly(dcp.DefaultLoadPlanner):
    """torch's planner without entries that are no tensors, which it would unpickle."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise UserError(f"checkpoint entry {read_item.dest_index.fqn!r} is not a tensor")


def fill_from_shards(tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill tensors, by their keys, from a folder of shards; each rank on its own.

    Args:
        tensors: of the stored shapes, or DTensors of them; any dtype.
        folder: of the checkpoint.

    Raises:
        UserError: `.metadata` is not what torch writes, or a shard is missing or damaged.
    """
    read_metadata(folder)  # raises our own error, which torch would wrap
    try:
        dcp.load(tensors, storage_reader=ShardReader(folder), planner=TensorsOnly(), no_dist=True)
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        raise UserError(
            f"{folder}: a shard is missing or damaged ({type(error).__name__}). Use another "
            "checkpoint, or start a new run with --resume never."
        ) from error
