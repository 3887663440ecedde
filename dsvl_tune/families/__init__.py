"""Model families, one folder each.

`FAMILIES` is the table of them, `core.family.Family` what the rest of the project asks of one, and
`open_checkpoint` the way from a checkpoint's name to a `Checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsvl_tune.core.checkpoint import (
    Checkpoint,
    refuse_quantized,
    resolve_checkpoint,
)
from dsvl_tune.core.checkpoint.checksums import check_own_sums, read_own_sums
from dsvl_tune.core.checkpoint.config_numbers import check_numbers
from dsvl_tune.core.checkpoint.hub import (
    HubName,
    download_checkpoint,
    fetch_config,
    fetch_headers,
    hub_name,
)
from dsvl_tune.core.checkpoint.pickled_weights import PICKLED_FILES
from dsvl_tune.core.checkpoint.weight_headers import Stored, check_regular, has_weights, read_json
from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.core.family import Family
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.families.deepseek_vl2.family import DEEPSEEK_VL2
from dsvl_tune.families.janus.family import JANUS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "FAMILIES",
    "Family",
    "check_family",
    "checkpoint_folder",
    "family_of",
    "family_of_model",
    "open_checkpoint",
    "open_sizes",
]

FAMILIES: list[Family] = [
    DEEPSEEK_VL,
    DEEPSEEK_VL2,
    JANUS,
]
"""Every family that checkpoints can be of; a new one is a folder and a line here."""

Stamps = tuple[tuple[str, int, int], ...]


def open_checkpoint(name: str | Path) -> Checkpoint:
    """The checkpoint of this name; opened once a process as long as its files stay the same.

    Its small files are compared with its SHA256SUMS, if it has one; weights are when they are read.

    Args:
        name: "embedded", a folder or a hub name, see `checkpoint_folder`.

    Raises:
        UserError: no such checkpoint, one of no known family, of quantized weights, or with a file
            that differs from what SHA256SUMS lists.
    """
    folder = checkpoint_folder(str(name))
    return _open_folder(str(name), folder, _stamps(folder))


def checkpoint_folder(name: str) -> Path:
    """Folder of a checkpoint with all its files, see `resolve_checkpoint`.

    Pickles are downloaded only for a family that publishes weights in such files.

    Args:
        name: "embedded", a folder or a hub name.

    Raises:
        UserError: neither a folder nor a name that the hub knows, or a hub name of no known family.
    """
    folder = resolve_checkpoint(name)
    on_hub = hub_name(name)
    if on_hub is None or has_weights(folder):
        return folder
    settings = read_json(folder / "config.json")
    if has_pickles(settings, family_of(settings, f"{name}/config.json")):
        return download_checkpoint(on_hub, PICKLED_FILES)
    return folder


def has_pickles(settings: Mapping[str, Any], family: Family) -> bool:
    """Whether the weights of a checkpoint with this config.json may be in pickles."""
    return family.pickled_originals and family.layout(settings) == "original"


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
        check_regular(path)
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
    on_hub = hub_name(name)
    folder = resolve_checkpoint(name) if on_hub is None else fetch_config(on_hub)
    settings = read_json(folder / "config.json")
    place = f"{name}/config.json"
    refuse_quantized(place, settings)
    check_numbers(place, settings)
    family = family_of(settings, place)
    headers = None
    if on_hub is not None:
        headers = _headers_of(on_hub, folder, has_pickles(settings, family))
    return Checkpoint(name, folder, settings, family, headers=headers, complete=False)


def _headers_of(name: HubName, folder: Path, pickled: bool) -> dict[str, Stored]:
    """The headers of the weight files of a hub name; {} of pickles, which have none.

    Args:
        name: on the hub.
        folder: that they would be in.
        pickled: whether its weights may be in pickles.
    """
    found = fetch_headers(name, pickled)
    headers = {}
    for file, metadata in found.items():
        for tensor, info in metadata.tensors.items():
            headers[tensor] = Stored(folder / file, tensor, info.dtype, tuple(info.shape))
    return headers


def family_of(settings: Mapping[str, Any], place: str) -> Family:
    """The family that a config.json is of.

    Args:
        settings: its content, in either layout.
        place: where it is, for the message.

    Raises:
        UserError: it is of none.
    """
    known = ", ".join(family.name for family in FAMILIES)
    if not isinstance(settings.get("model_type"), str):
        raise UserError(f"{place}: model_type is {settings.get('model_type')!r}, expected a name.")
    for family in FAMILIES:
        if relative := family.relative(settings):
            raise UserError(
                f"{place}: this is {relative}, which is not trained here. Give a checkpoint of one "
                f"of {known}."
            )
    for family in FAMILIES:
        if family.recognizes(settings):
            return family
    raise UserError(
        f"{place}: model_type is {settings.get('model_type')!r}, which is no known family. Give a "
        f"checkpoint of one of {known}, in the layout of transformers or the original one."
    )


def check_family(checkpoint: Checkpoint, expected: str | None) -> None:
    """Compare the family of a checkpoint with the one that a recipe is for.

    Args:
        checkpoint: of the recipe.
        expected: name of the family; None takes any.

    Raises:
        UserError: it is of another family, or there is none of that name.
    """
    names = [family.name for family in FAMILIES]
    if expected is None or expected == checkpoint.family.name:
        return
    if expected not in names:
        raise unknown_name("model.family", expected, names)
    found = checkpoint.family.name
    raise UserError(
        f"model.checkpoint: {checkpoint.name} is a {found} checkpoint, and this recipe is for "
        f"{expected} (model.family). Give a checkpoint of {expected}, or a recipe for {found}; "
        "with model.family null a recipe takes any family."
    )


def family_of_model(model: PreTrainedModel) -> Family:
    """The family that a model in memory is of, by the `model_type` of its configuration."""
    return family_of({"model_type": model.config.model_type}, type(model).__name__)
