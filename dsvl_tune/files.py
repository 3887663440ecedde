"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dsvl_tune.schema import UserError


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
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"{path}: could not be written ({getattr(error, 'strerror', None) or error}). "
            "What was there before is untouched. Make room or give another folder."
        ) from error


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
    save_file({name: t.detach().contiguous().cpu() for name, t in tensors.items()}, path, metadata={"format": "pt"})
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
