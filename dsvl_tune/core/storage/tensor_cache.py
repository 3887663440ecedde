"""A bounded on-disk cache of small sets of tensors, safe for several writers and for kills.

Each entry is one safetensors file that appears by a rename. Its metadata hold the key and a CRC-32
of names, dtypes, shapes and bytes, so a truncated, corrupted or misplaced entry is a cache miss.
"""

from __future__ import annotations

import os
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dsvl_tune.core.storage.files import format_bytes, free_bytes, write_cached

Shapes = dict[str, tuple[int, ...]]

KEPT_FREE_BYTES = 2 << 30
"""Disk space that the cache never uses: the run's own checkpoints need some."""
COUNT_EVERY = 64
"""Entries after which a writer measures the folder again, to see what others have written."""
ABANDONED_S = 3600
"""Age in seconds from which a partial file counts as left by a killed process."""
SUFFIX = ".safetensors"
PARTIAL_SUFFIX = ".partial"


@dataclass
class TensorCache:
    """Entries with the same names, shapes and dtype in one folder of a cache.

    Attributes:
        root: folder of the whole cache.
        folder: name of this folder below `root`; it must differ wherever equal keys would have
            different entries.
        shapes: shape of each tensor of an entry, by name. The first axis of an entry may be
            shorter, as with an image that has fewer crops than another.
        dtype: of every tensor.
        max_bytes: limit on everything below `root`, this folder and others.
        kept_free_bytes: disk space that is never used.
        closed: why nothing is added anymore; "" while entries are added.
    """

    root: Path
    folder: str
    shapes: Shapes
    dtype: torch.dtype
    max_bytes: int
    kept_free_bytes: int = KEPT_FREE_BYTES
    closed: str = ""
    used_bytes: int = field(default=0, init=False)
    puts_since_count: int = field(default=COUNT_EVERY, init=False)

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry's tensors, at most."""
        elements = sum(torch.Size(shape).numel() for shape in self.shapes.values())
        return elements * self.dtype.itemsize

    def path(self, key: str) -> Path:
        """File of an entry; 256 subfolders keep directory listings short."""
        return self.root / self.folder / key[:2] / f"{key}{SUFFIX}"

    def has(self, key: str) -> bool:
        """Whether there is a complete file for a key; only `get` detects corrupted bytes."""
        try:
            with safe_open(self.path(key), framework="pt") as file:
                metadata = file.metadata() or {}
        except (OSError, SafetensorError):
            return False
        return bool(metadata.get("key") == key)

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The entry of a key, memory-mapped; None on a miss. A corrupted entry is removed.

        Args:
            key: hexadecimal.

        Returns:
            Tensors of `shapes` and `dtype` by name.
        """
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in self.shapes}
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError):
            self._remove(path)
            return None
        fits = all(self._fits(name, tensor) for name, tensor in tensors.items())
        if not fits or metadata.get("key") != key or metadata.get("crc32") != checksum(tensors):
            self._remove(path)
            return None
        return tensors

    def put(self, key: str, tensors: dict[str, Tensor]) -> bool:
        """Add an entry unless the cache is full; the first refusal is reported once.

        Args:
            key: hexadecimal.
            tensors: of `shapes`, any floating dtype; converted to `dtype`.

        Returns:
            Whether the entry was added.
        """
        if self.closed:
            return False
        converted = {
            name: tensors[name].detach().to("cpu", self.dtype).contiguous() for name in self.shapes
        }
        content = save(converted, metadata={"key": key, "crc32": checksum(converted)})
        if not self._has_space(len(content)):
            return False
        try:
            write_cached(self.path(key), lambda partial: partial.write_bytes(content))
        except OSError as error:
            self._close(error.strerror or str(error))
            return False
        self.used_bytes += len(content)
        return True

    def _fits(self, name: str, tensor: Tensor) -> bool:
        """Whether a tensor has the dtype and a shape of entries."""
        if tensor.dtype != self.dtype or tensor.dim() != len(self.shapes[name]):
            return False
        longest, *rest = self.shapes[name]
        return 0 < len(tensor) <= longest and list(tensor.shape[1:]) == rest

    def _remove(self, path: Path) -> None:
        """Remove a corrupted entry; in a read-only folder it stays a miss."""
        with suppress(OSError):
            path.unlink(missing_ok=True)

    def _has_space(self, more_bytes: int) -> bool:
        """Whether that many bytes can be added; closes the cache if not."""
        self.puts_since_count += 1
        if self.puts_since_count > COUNT_EVERY:
            self.used_bytes = folder_bytes(self.root)
            self.puts_since_count = 1
            free = free_bytes(self.root)
            if free - COUNT_EVERY * more_bytes < self.kept_free_bytes:
                self._close(f"only {format_bytes(free)} of disk space left")
        if self.used_bytes + more_bytes > self.max_bytes:
            self._close(f"limit of {self.max_bytes / 1e9:g} GB reached")
        return not self.closed

    def _close(self, reason: str) -> None:
        """Add nothing from now on, and say so once."""
        if not self.closed:
            self.closed = reason
            print(f"cache {self.root}: nothing more is added: {reason}", flush=True)


def checksum(tensors: dict[str, Tensor]) -> str:
    """CRC-32 over names, dtypes, shapes and bytes, in the order of the names.

    Args:
        tensors: contiguous, on the CPU.
    """
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def folder_bytes(root: Path) -> int:
    """Bytes of all files below a folder; removes partial files of killed processes on the way."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                status = path.stat()
                age_s = time.time() - status.st_mtime
                if name.endswith(PARTIAL_SUFFIX) and age_s > ABANDONED_S:
                    path.unlink()
                else:
                    total += status.st_size
            except OSError:
                continue  # another process renamed or removed it
    return total
