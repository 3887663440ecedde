"""Model families, one folder each.

`FAMILIES` is the table of them, `base.Family` what the rest of the project asks of one, and
`open_checkpoint` the way from a checkpoint's name to a `Checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsvl_tune.core.checkpoint import (
    Checkpoint,
    hub_error,
    is_hub_name,
    refuse_quantized,
    resolve_checkpoint,
)
from dsvl_tune.core.checksums import check_own_sums, read_own_sums
from dsvl_tune.core.config_numbers import check_numbers
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.weight_headers import Stored, read_json
from dsvl_tune.families.base import Family
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.families.janus.family import JANUS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "FAMILIES",
    "Family",
    "family_of",
    "family_of_model",
    "open_checkpoint",
    "open_sizes",
]

FAMILIES: list[Family] = [
    DEEPSEEK_VL,
    JANUS,
]
"""Every family that checkpoints can be of; a new one is a folder and a line here."""

Stamps = tuple[tuple[str, int, int], ...]


def open_checkpoint(name: str | Path) -> Checkpoint:
    """The checkpoint of this name; opened once a process as long as its files stay the same.

    Its small files are compared with its SHA256SUMS, if it has one; weights are when they are read.

    Args:
        name: "embedded", a folder or a hub name, see `resolve_checkpoint`.

    Raises:
        UserError: no such checkpoint, one of no known family, of quantized weights, or with a file
            that differs from what SHA256SUMS lists.
    """
    folder = resolve_checkpoint(str(name))
    return _open_folder(str(name), folder, _stamps(folder))


@lru_cache(maxsize=8)
def _open_folder(name: str, folder: Path, stamps: Stamps) -> Checkpoint:
    settings = read_json(folder / "config.json")
    place = f"{folder}/config.json"
    refuse_quantized(place, settings)
    check_numbers(place, settings)
    sums = read_own_sums(folder)
    check_own_sums(folder, sums, weights=False)
    return Checkpoint(name, folder, settings, family_of(settings, place), sums=sums)


def _stamps(folder: Path) -> Stamps:
    """Name, size and time of change of every file of a folder: other ones mean other content."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            found.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return tuple(found)


def open_sizes(name: str | Path) -> Checkpoint:
    """A checkpoint for its configuration alone, which fetches no weights from the hub.

    Args:
        name: as for `open_checkpoint`. In transformers' layout a folder needs config.json alone;
            of a hub name only config.json and the headers of the weight files are fetched.

    Raises:
        UserError: no such checkpoint, one of no known family, or of quantized weights.
    """
    name = str(name)
    if is_hub_name(name):
        folder, headers = _fetch_sizes(name)
    else:
        folder, headers = resolve_checkpoint(name), None
    settings = read_json(folder / "config.json")
    place = f"{name}/config.json"
    refuse_quantized(place, settings)
    check_numbers(place, settings)
    family = family_of(settings, place)
    return Checkpoint(name, folder, settings, family, headers=headers, complete=False)


def _fetch_sizes(name: str) -> tuple[Path, dict[str, Stored]]:
    """Folder with config.json of a hub name, and the headers of its weight files."""
    from huggingface_hub import get_safetensors_metadata, hf_hub_download
    from huggingface_hub.errors import HFValidationError, NotASafetensorsRepoError

    try:
        folder = Path(hf_hub_download(name, "config.json")).parent
        files = get_safetensors_metadata(name).files_metadata
    except (OSError, HFValidationError, NotASafetensorsRepoError) as error:
        raise hub_error(name, error, "its config.json and headers") from error
    headers = {}
    for file, metadata in files.items():
        for tensor, info in metadata.tensors.items():
            headers[tensor] = Stored(folder / file, tensor, info.dtype, tuple(info.shape))
    return folder, headers


def family_of(settings: Mapping[str, Any], place: str) -> Family:
    """The family that a config.json is of.

    Args:
        settings: its content, in either layout.
        place: where it is, for the message.

    Raises:
        UserError: it is of none.
    """
    for family in FAMILIES:
        if family.recognizes(settings):
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise UserError(
        f"{place}: model_type is {settings.get('model_type')!r}, which is no known family. Give a "
        f"checkpoint of one of {known}, in the layout of transformers or the original one."
    )


def family_of_model(model: PreTrainedModel) -> Family:
    """The family that a model in memory is of, by the `model_type` of its configuration."""
    return family_of({"model_type": model.config.model_type}, type(model).__name__)
