"""JSON files of a checkpoint and headers of its weight files: what is known without tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from dsvl_tune.core.checkpoint.pickled_weights import (
    PICKLED_INDEX,
    PICKLED_WEIGHTS,
    pickled_tensors,
)
from dsvl_tune.core.errors import UserError

ORIGINAL = "multi_modality"
"""`model_type` of the original layout."""
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
MOST_JSON_BYTES = 64 << 20
"""An index of a million tensors has no more."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
PICKLE_STARTS = (b"PK\x03\x04", b"\x80")
"""First bytes of what torch.save writes: a zip archive today, a bare pickle before."""


class Stored(NamedTuple):
    """A tensor in a file, by the file's header.

    Attributes:
        path: of the file.
        name: of the tensor in the file.
        dtype: in safetensors' words (F16, BF16, F32, ...).
        shape: of the tensor.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, which may come from anyone.

    Raises:
        UserError: the file is missing, no regular file, too large, nested too deep, or not a JSON
            object.
    """
    if not path.exists():
        raise UserError(f"{path.parent}: no {path.name} there. Is it a checkpoint folder?")
    check_regular(path)
    if path.stat().st_size > MOST_JSON_BYTES:
        raise UserError(f"{path}: larger than {MOST_JSON_BYTES >> 20} MiB. Copy it again.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also: half a character, a number too long
        raise UserError(f"{path}: not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}.")
    return content


def check_regular(path: Path) -> None:
    """Raise if an existing path is neither a file nor a folder: reading a pipe may never end.

    Raises:
        UserError: it is a pipe, a socket or a device.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(
            f"{path}: neither a file nor a folder (a pipe, socket or device). Remove it."
        )


def is_original(folder: Path) -> bool:
    """Whether a checkpoint is in the original layout."""
    return read_json(folder / "config.json").get("model_type") == ORIGINAL


def has_weights(folder: Path, *, pickled: bool = False) -> bool:
    """Whether a folder has weights or their index: in safetensors, or in pickles of torch.save."""
    names = (PICKLED_WEIGHTS, PICKLED_INDEX) if pickled else (WEIGHTS, WEIGHTS_INDEX)
    return any((folder / name).is_file() for name in names)


def read_headers(folder: Path, *, pickles_allowed: bool = False) -> dict[str, Stored]:
    """Every tensor of a checkpoint by its name in the files.

    Args:
        folder: of the checkpoint.
        pickles_allowed: whether weights that torch.save wrote are read where there are no
            safetensors.

    Raises:
        UserError: no safetensors, a damaged or truncated file, or an index that does not match
            its files.
    """
    if pickles_allowed and not has_weights(folder) and has_weights(folder, pickled=True):
        return _read_headers(folder, PICKLED_WEIGHTS, PICKLED_INDEX, read_pickled_header)
    return _read_headers(folder, WEIGHTS, WEIGHTS_INDEX, read_header)


def _read_headers(
    folder: Path, single: str, index_name: str, read: Callable[[Path], dict[str, Stored]]
) -> dict[str, Stored]:
    """Every tensor of one file, or of those that an index lists."""
    index = folder / index_name
    if not index.is_file():
        return read(folder / single)
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise UserError(f"{index}: expected weight_map, an object of tensor names and file names.")
    headers: dict[str, Stored] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            raise UserError(f"{index}: {shard!r} is not the name of a file next to it.")
        found = read(folder / shard)
        listed = {name for name, place in places.items() if place == shard}
        if wrong := sorted(listed ^ set(found)):
            where = (
                f"is not in {shard}"
                if wrong[0] in listed
                else f"is in {shard} but not listed there"
            )
            raise UserError(
                f"{index}: {wrong[0]} {where} ({len(wrong)} such). Copy index and files again, "
                "together."
            )
        headers |= found
    return headers


def read_header(path: Path) -> dict[str, Stored]:
    """Every tensor of one safetensors file.

    Raises:
        UserError: the file is missing, a pickle, damaged or truncated.
    """
    if not path.is_file():
        pickles = sorted(file.name for pattern in PICKLES for file in path.parent.glob(pattern))
        hint = (
            f" {pickles[0]} is a pickle, which can run code, and is never opened."
            if pickles
            else ""
        )
        raise UserError(
            f"{path.parent}: no {path.name}. Weights are read from safetensors files only.{hint}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            # Not a dictionary, so its keys have to be asked for.
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: Stored(path, name, s.get_dtype(), tuple(s.get_shape()))
                for name, s in slices.items()
            }
    except (SafetensorError, OSError) as error:
        with path.open("rb") as opened:
            pickled = opened.read(4).startswith(PICKLE_STARTS)
        found = (
            "a pickle, which can run code and is never opened"
            if pickled
            else f"damaged or truncated ({error})"
        )
        raise UserError(
            f"{path}: expected a safetensors file, found one that is {found}. Copy it again."
        ) from None


def read_pickled_header(path: Path) -> dict[str, Stored]:
    """Every tensor of one file that torch.save wrote.

    Raises:
        UserError: the file is missing, or holds anything but tensors.
    """
    # They import torch, which not every command needs.
    from dsvl_tune.core.dtypes import SAFETENSORS_NAMES, dtype_name

    if not path.is_file():
        raise UserError(f"{path.parent}: no {path.name}. Copy the checkpoint again.")
    headers = {}
    for name, tensor in pickled_tensors(path).items():
        dtype = dtype_name(tensor.dtype)
        headers[name] = Stored(path, name, SAFETENSORS_NAMES.get(dtype, dtype), tuple(tensor.shape))
    return headers


def weight_files(folder: Path) -> dict[str, Path]:
    """Tensor name -> file that holds it, read from the files' headers without loading a tensor.

    Raises:
        UserError: as `read_headers`.
    """
    return {name: stored.path for name, stored in read_headers(folder).items()}
