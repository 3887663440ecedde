"""The metadata of a folder of shards, read without running what it brings, and checked.

It is a pickle, which may name only the classes that torch writes there.
"""

from __future__ import annotations

import io
import math
import pathlib
import pickle
import pickletools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata

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


def _check_memo(content: bytes) -> None:
    """Raise if a pickle numbers an object beyond its own length.

    Python's unpickler makes room for the highest number at once: a file of 20 bytes can take all
    memory.

    Args:
        content: of the file.

    Raises:
        pickle.UnpicklingError: it does.
        ValueError: it is no pickle.
    """
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"it numbers an object {argument}")


def read_metadata(folder: Path) -> metadata.Metadata:
    """The names, shapes and places of all tensors in a folder of shards.

    Args:
        folder: of the checkpoint; may come from anyone.

    Raises:
        UserError: `.metadata` is missing, damaged, or not what torch writes.
    """
    path = folder / METADATA
    try:
        content = path.read_bytes()
        _check_memo(content)
        found = _MetadataUnpickler(io.BytesIO(content)).load()
        problem = _problem_in_metadata(found, folder)
    except FileNotFoundError:
        raise UserError(f"{folder}: no {METADATA} in this checkpoint folder.") from None
    except Exception as error:  # damaged bytes, and objects that lack parts, raise almost anything
        raise _unreadable(path, str(error)) from None
    if problem is not None:
        raise _unreadable(path, problem)
    checked: metadata.Metadata = found
    return checked


def _unreadable(path: Path, reason: str) -> UserError:
    """The error for a `.metadata` file that torch has not written, or that was damaged."""
    return UserError(
        f"{path}: not the metadata of a checkpoint ({reason}). Nothing was loaded from it. Use "
        "another checkpoint, or start a new run with --resume never."
    )


def _problem_in_metadata(found: Any, folder: Path) -> str | None:
    """What the metadata of a folder of shards has that torch does not write; None if nothing.

    Every tensor must be as large as its chunks together, and every chunk must be in a file of the
    folder: nobody can ask for more memory than the folder has bytes.

    Args:
        found: what `.metadata` held.
        folder: the folder that it describes.
    """
    if not isinstance(found, metadata.Metadata):
        return f"found {type(found).__name__}"
    entries, places = found.state_dict_metadata, found.storage_data
    sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    if not isinstance(entries, Mapping) or not isinstance(places, Mapping):
        return "its parts are no mappings"
    for index, place in places.items():
        if problem := _problem_in_place(index, place, sizes):
            return problem
    if sum(place.length for place in places.values()) > sum(sizes.values()):
        return "tensors share bytes"
    for key, entry in entries.items():
        if not isinstance(key, str) or not isinstance(entry, metadata.TensorStorageMetadata):
            return f"{key!r} is not a tensor"
        if problem := _problem_in_tensor(key, entry, places):
            return problem
    return None


def _problem_in_place(index: Any, place: Any, sizes: Mapping[str, int]) -> str | None:
    """What is wrong with the place of a chunk: file, and bytes in it.

    Args:
        index: names the tensor and where in it the chunk begins.
        place: what should be the place.
        sizes: of the folder's files in bytes.
    """
    if not isinstance(index, metadata.MetadataIndex):
        return f"the place of {type(index).__name__}"
    if not isinstance(place, filesystem._StorageInfo):
        return f"{type(place).__name__} as the place of {index.fqn!r}"
    name = place.relative_path
    if not isinstance(name, str) or name not in sizes:
        return f"{name!r} is not a file in this folder"
    if not _are_sizes((place.offset, place.length)):
        return f"the place of {index.fqn!r} in {name} is no range"
    if place.offset + place.length > sizes[name]:
        return f"{name} ends before {index.fqn!r} does"
    if getattr(place, "transform_descriptors", None):
        return f"{index.fqn!r} is compressed"
    return None


def _problem_in_tensor(key: str, entry: Any, places: Mapping[Any, Any]) -> str | None:
    """What is wrong with the description of a stored tensor."""
    dtype = getattr(entry.properties, "dtype", None)
    if not isinstance(dtype, torch.dtype) or not isinstance(entry.chunks, list):
        return f"{key!r} has no dtype or no chunks"
    if not _are_sizes(entry.size):
        return f"the shape of {key!r} is {entry.size!r}"
    covered = 0
    for chunk in entry.chunks:
        if not _is_inside(chunk, entry.size):
            return f"a chunk of {key!r} lies outside of it"
        elements = math.prod(chunk.sizes)
        place = places.get(metadata.MetadataIndex(key, torch.Size(chunk.offsets)))
        if place is None or place.length < elements * dtype.itemsize:
            return f"a chunk of {key!r} is not in the folder"
        covered += elements
    if covered != math.prod(entry.size):
        return f"the chunks of {key!r} are not all of it"
    return None


def _is_inside(chunk: Any, size: Sequence[int]) -> bool:
    """Whether a chunk has a shape and a place inside a tensor of some size."""
    if not _are_sizes(chunk.sizes) or not _are_sizes(chunk.offsets):
        return False
    if not len(chunk.sizes) == len(chunk.offsets) == len(size):
        return False
    ends = map(sum, zip(chunk.offsets, chunk.sizes, strict=True))
    return all(end <= whole for end, whole in zip(ends, size, strict=True))


def _are_sizes(value: Any) -> bool:
    """Whether a value is a sequence of numbers that count something."""
    return isinstance(value, (tuple, list)) and all(
        isinstance(number, int) and number >= 0 for number in value
    )
