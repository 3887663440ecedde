"""A bounded folder of small sets of tensors, found again by key, that several processes may fill and be killed at.

An entry is a safetensors file of its own, which appears by a rename. Its metadata hold its key and the CRC-32 of names,
shapes, types and bytes: whatever is cut off, garbled or in another's place is found when it is read, and is a miss.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

KEPT_FREE_BYTES = 2 << 30
"""The disk is never filled beyond this: the run's own checkpoints need room, too."""
COUNT_EVERY = 64
"""Entries after which a writer counts the folder again, for what others have written meanwhile."""
ABANDONED_S = 3600
"""Age from which on a file that was not finished is taken for one of a killed process."""
SUFFIX, PARTIAL = ".safetensors", ".partial"


@dataclass
class TensorCache:
    """Entries of equal names, shapes and dtype in one folder of a store.

    Attributes:
        root: the store. max_bytes: bound on all that lies there, of this folder and of others.
        folder: name of the folder below it; it must tell apart whatever makes entries of one key differ.
        shapes: of each tensor of an entry. dtype: of all of them.
        closed: why nothing is added any more ("" while there is room).
    """

    root: Path
    folder: str
    shapes: Shapes
    dtype: torch.dtype
    max_bytes: int
    closed: str = ""
    used_bytes: int = field(default=0, init=False)
    since_count: int = field(default=COUNT_EVERY, init=False)

    @property
    def entry_bytes(self) -> int:
        """Bytes of an entry's tensors."""
        return (
            sum(torch.Size(shape).numel() for shape in self.shapes.values()) * self.dtype.itemsize
        )

    def path(self, key: str) -> Path:
        """File of an entry; folders of 256 parts stay quick to search."""
        return self.root / self.folder / key[:2] / f"{key}{SUFFIX}"

    def has(self, key: str) -> bool:
        """Whether there is a whole file of that key. Its bytes are not read; only `get` finds damage among them."""
        try:
            with safe_open(self.path(key), framework="pt") as file:
                return bool((file.metadata() or {}).get("key") == key)
        except (OSError, SafetensorError):
            return False

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The entry of that key, its file mapped; None if there is none. A damaged one is removed."""
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in self.shapes}
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError):
            self.remove(path)
            return None
        whole = all(
            tuple(t.shape) == self.shapes[name] and t.dtype == self.dtype
            for name, t in tensors.items()
        )
        if not whole or said.get("key") != key or said.get("crc32") != checksum(tensors):
            self.remove(path)
            return None
        return tensors

    def remove(self, path: Path) -> None:
        """Take a damaged entry away, where that is allowed."""
        with suppress(OSError):  # a folder that is only read: the entry stays a miss
            path.unlink(missing_ok=True)

    def put(self, key: str, tensors: dict[str, Tensor]) -> bool:
        """Keep an entry, unless there is no room: then nothing is added any more, which is said once.

        Args:
            key: hexadecimal. tensors: of the store's shapes, rounded to its dtype here.
        """
        if self.closed:
            return False
        tensors = {
            name: tensors[name].detach().to("cpu", self.dtype).contiguous() for name in self.shapes
        }
        content = save(tensors, metadata={"key": key, "crc32": checksum(tensors)})
        if not self.has_room(len(content)):
            return False
        path = self.path(key)
        partial = path.with_name(f".{key}.{uuid.uuid4().hex}{PARTIAL}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(path)
        except OSError as error:
            self.close(error.strerror or str(error))
            self.remove(partial)
            return False
        self.used_bytes += len(content)
        return True

    def has_room(self, more_bytes: int) -> bool:
        """Whether that much more fits."""
        self.since_count += 1
        if self.since_count > COUNT_EVERY:
            self.used_bytes, self.since_count = folder_bytes(self.root), 1
            if free_bytes(self.root) - COUNT_EVERY * more_bytes < KEPT_FREE_BYTES:
                self.close(f"the disk has only {in_words(free_bytes(self.root))} left")
        if self.used_bytes + more_bytes > self.max_bytes:
            self.close(f"it has reached its {self.max_bytes / 1e9:g} GB")
        return not self.closed

    def close(self, reason: str) -> None:
        """Add nothing from now on."""
        if not self.closed:
            self.closed = reason
            print(
                f"{self.root}: nothing more is added: {reason}. What is there is used.", flush=True
            )


def checksum(tensors: dict[str, Tensor]) -> str:
    """CRC-32 over names, dtypes, shapes and bytes, in the names' order."""
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def folder_bytes(root: Path) -> int:
    """Bytes of all files below a folder. What killed processes left unfinished is removed on the way."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                status = path.stat()
                if name.endswith(PARTIAL) and time.time() - status.st_mtime > ABANDONED_S:
                    path.unlink()
                else:
                    total += status.st_size
            except OSError:
                continue  # another process renamed or removed it
    return total


def free_bytes(path: Path) -> int:
    """Bytes that can still be written where `path` is or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def in_words(count: int) -> str:
    """Bytes for people."""
    size, name = next(
        ((size, name) for size, name in ((1e9, "GB"), (1e6, "MB")) if count >= size), (1e3, "kB")
    )
    return f"{count / size:,.2f} {name}"
