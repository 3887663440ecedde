"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dsvl_tune.core.errors import UserError

KINDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""What safetensors calls the dtypes (github.com/huggingface/safetensors: Format)."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then put it in its place in one step.

    After a crash, a kill or a full disk at any moment, `path` is the old file or the new one, never a part.

    Raises:
        UserError: the file could not be written (disk full, read-only folder); what stood there still does.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"{path}: could not be written ({getattr(error, 'strerror', None) or error}). "
            "What was there before is untouched. Make room or give another folder."
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power loss: renaming alone leaves them in memory."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """Readable JSON, whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json_lines(path: Path, records: Iterable[Any]) -> None:
    """A record a line (JSONL), whole or not at all."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file with the permissions that other files get (safetensors itself makes it private)."""
    save_file(
        {name: t.detach().contiguous().cpu() for name, t in tensors.items()},
        path,
        metadata={"format": "pt"},
    )
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def stream_tensors(path: Path, like: dict[str, Tensor], read: Callable[[str], Tensor]) -> None:
    """A safetensors file written tensor by tensor, so that one alone is in memory.

    Args:
        path: of the file. like: names, shapes and dtypes. read: gives the values of a name.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in like.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": KINDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in like.items():
            values = read(name).to(tensor.dtype).contiguous().cpu()
            file.write(values.flatten().view(torch.uint8).numpy().data)


@contextmanager
def whole_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Let the block fill a folder beside `target`, then put it in its place in one step.

    After an error nothing is left of it. After a kill or a crash a hidden folder may be left beside, which the next
    attempt removes; `target` is absent, the old folder or the new one, never a part.

    Args:
        target: the folder to make.
        overwrite: whether what stands there may be replaced, once the new folder is complete.

    Raises:
        UserError: `target` holds something and `overwrite` is off.
    """
    target = target.absolute()
    settle(target)
    if target.is_file() or (target.exists() and not overwrite and any(target.iterdir())):
        raise UserError(f"{target}: exists and is not an empty folder. Give a new one.")
    partial = partial_of(target)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_of(target: Path) -> Path:
    """Where a folder is filled before it is put in its place."""
    return target.with_name(f".{target.name}.partial")


def put_in_place(partial: Path, target: Path) -> None:
    """Put a filled folder where another file or folder may stand; `settle` ends what a kill interrupts."""
    settle(target)
    replaced = target.with_name(f".{target.name}.replaced")
    if target.exists():
        target.replace(replaced)
    partial.replace(target)
    remove(replaced)


def settle(target: Path) -> None:
    """End what a kill has interrupted in `put_in_place`; for the one process that writes the target."""
    replaced = target.with_name(f".{target.name}.replaced")
    if replaced.exists() and not target.exists():
        replaced.replace(target)
    remove(replaced)


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
