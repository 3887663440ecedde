"""Weight files that torch.save wrote, read without running anything that they bring.

Such a file is a pickle in a zip archive. It is only opened for a family whose published weights are
in such files (`Family.pickled_originals`), and only by torch's loader of weights, whose allow-list
holds tensors alone. The tensors are mapped, not loaded: their values are read when they are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dsvl_tune.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".bin"
PICKLED_WEIGHTS = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
PICKLED_FILES = ("pytorch_model*.bin", PICKLED_INDEX)
"""Names that transformers gave them, as patterns."""


def pickled_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file by its name, mapped on the CPU, of the file's shapes and dtypes.

    Args:
        path: of the file. It is opened once as long as it stays the same.

    Raises:
        UserError: it holds anything but tensors, or is no file of torch.save.
    """
    status = path.stat()
    return _map_tensors(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2)  # a fused tensor's neighbors may be in the next file
def _map_tensors(path: Path, size: int, modified: int) -> dict[str, Tensor]:
    """`pickled_tensors`, cached by the file's size and time; of the file's shapes and dtypes."""
    import torch

    try:
        with _tensors_alone():
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # any: torch raises whatever its parsers of zip and pickle do
        reason = str(error).strip().splitlines() or [""]
        raise UserError(
            f"{path}: expected a file in which torch.save (1.6 or newer) put tensors and nothing "
            f"else; nothing else is read from it ({type(error).__name__}: {reason[0]}). Copy it "
            "again, or convert it to safetensors where it comes from."
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors."
        )
    for name, value in content.items():
        tensor = isinstance(value, torch.Tensor) and value.layout == torch.strided
        if not isinstance(name, str) or not tensor:
            raise UserError(
                f"{path}: {name!r} is a {type(value).__name__}, expected plain tensors by name."
            )
    return content


@contextmanager
def _tensors_alone() -> Iterator[None]:
    """Within this context, what other libraries have allowed torch to unpickle is not allowed."""
    from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

    allowed = get_safe_globals()
    clear_safe_globals()
    try:
        yield
    finally:
        add_safe_globals(allowed)


def safetensors_name(name: str) -> str:
    """The name of the safetensors file that a weight file becomes; its own if it is one."""
    if not name.endswith(SUFFIX):
        return name
    return f"{name.removesuffix(SUFFIX).replace('pytorch_model', 'model', 1)}.safetensors"
