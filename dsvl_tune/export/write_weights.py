"""Writing a checkpoint in either layout from a base in either layout.

It goes file by file: peak memory is a file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dsvl_tune.core.checkpoint.pickled_weights import safetensors_name
from dsvl_tune.core.checkpoint.weight_headers import WEIGHTS, WEIGHTS_INDEX
from dsvl_tune.core.dtypes import DTYPES, NAMES_IN_FILES
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Layout
from dsvl_tune.core.progress import no_bar, tqdm
from dsvl_tune.core.storage.files import atomic_write, write_json
from dsvl_tune.core.storage.tensor_files import save_tensors
from dsvl_tune.models.checkpoint.weights import UNUSED, Weights, read_tensor

Alter = Callable[[str, Tensor], Tensor]
"""What happens to a base tensor: its name in transformers' layout and its values -> the values to
write."""


def unchanged(name: str, base: Tensor) -> Tensor:
    """The `Alter` of a conversion: `base`, of any shape and dtype, as it is."""
    return base


class Planned(NamedTuple):
    """Tensors that are written together.

    Attributes:
        names: in the layout of the target.
        sources: names in transformers' layout of the tensors that they are made of.
    """

    names: tuple[str, ...]
    sources: tuple[str, ...]


def plan_files(weights: Weights, layout: Layout) -> dict[str, list[Planned]]:
    """File name -> what goes into it. The base's own division into files is kept."""
    files: dict[str, list[Planned]] = {}
    for name, group in weights.groups.items():
        if layout == "transformers":
            planned = Planned((weights.checkpoint.family.written_name(name),), (name,))
        else:
            planned = Planned(group.original, group.transformers)
        if planned.sources[0] == name:  # the other tensors of a group come with its first
            file = safetensors_name(weights.stored[name][0].path.name)
            files.setdefault(file, []).append(planned)
    return dict(sorted(files.items()))


def write_weights(
    weights: Weights, target: Path, layout: Layout, alter: Alter, dtype: torch.dtype | None
) -> None:
    """Write every tensor of a checkpoint.

    What transformers has no place for goes to a side file of a checkpoint in transformers' layout,
    and back among the rest in the original layout.

    Args:
        weights: the base.
        target: an empty folder.
        layout: of the files written.
        alter: applied to every tensor.
        dtype: of the written weights; None keeps each tensor's.

    Raises:
        UserError: the disk is full, or a value does not fit `dtype`.
    """
    index: dict[str, str] = {}
    total_bytes = 0
    files = plan_files(weights, layout)
    first = next(iter(files))
    with tqdm(
        total=len(weights.shapes), desc=f"writing {layout} layout", unit="tensor", disable=no_bar()
    ) as bar:
        for file, planned in files.items():
            tensors: dict[str, Tensor] = {}
            for group in planned:
                tensors |= make_tensors(group, weights, layout, alter, dtype)
                bar.update(len(group.sources))
            if layout == "original" and file == first:
                tensors |= {name: read_tensor(stored) for name, stored in weights.unused.items()}
            atomic_write(target / file, partial(save_tensors, tensors=tensors))
            index |= dict.fromkeys(tensors, file)
            total_bytes += sum(tensor.nbytes for tensor in tensors.values())
    if list(files) != [WEIGHTS]:
        content = {"metadata": {"total_size": total_bytes}, "weight_map": index}
        write_json(target / WEIGHTS_INDEX, content)
    if layout == "transformers" and weights.unused:
        write_unused(weights, target / UNUSED)


def make_tensors(
    planned: Planned, weights: Weights, layout: Layout, alter: Alter, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Tensors that are written together, by the names that they get in the file.

    Args:
        planned: their names, and those of the tensors that they are made of.
        weights: the base.
        layout: of the files written.
        alter: applied to every tensor.
        dtype: of the written weights; None keeps each tensor's.

    Raises:
        UserError: a value does not fit `dtype`.
    """
    tensors = [
        cast(source, alter(source, weights.read(source)), dtype, weights)
        for source in planned.sources
    ]
    if layout == "original":
        tensors = list(weights.groups[planned.sources[0]].to_original(tensors))
    return dict(zip(planned.names, tensors, strict=True))


def write_unused(weights: Weights, path: Path) -> None:
    """Write what transformers has no place for.

    Args:
        weights: the base.
        path: side file; its folder is created.
    """
    side = {name: read_tensor(stored) for name, stored in weights.unused.items()}
    path.parent.mkdir(exist_ok=True)
    atomic_write(path, partial(save_tensors, tensors=side))


def cast(name: str, tensor: Tensor, dtype: torch.dtype | None, weights: Weights) -> Tensor:
    """A tensor as it is written: in `dtype`, or in the dtype of the base's tensor.

    Args:
        name: of the tensor in transformers' layout.
        tensor: of any shape and floating dtype.
        dtype: to write, or None.
        weights: the base.

    Raises:
        UserError: a value is too large for the dtype.
    """
    stored = DTYPES[NAMES_IN_FILES[weights.stored[name][0].dtype]]
    written = tensor.to(dtype or stored)
    if not all(bound.isfinite() for bound in written.aminmax()):
        raise UserError(
            f"tensor {name}: a value does not fit {written.dtype}. Give --dtype bfloat16 or "
            "float32."
        )
    return written


def same_bits(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors of any shape and dtype agree in both, and in every bit."""
    if one.dtype != two.dtype or one.shape != two.shape:
        return False
    return torch.equal(*(tensor.contiguous().view(torch.uint8) for tensor in (one, two)))


def is_rounded(exact: Tensor, written: Tensor) -> bool:
    """Whether every value of `written` is that of `exact`, rounded once to the written dtype.

    This is bit for bit except for ties: where the exact value is halfway between two, within the
    error of its own sums in float64, either of the two passes. Any other value does not.

    Args:
        exact: [...], float64, computed in any order of sums, or float32.
        written: [...], float32, float16 or bfloat16.
    """
    if exact.shape != written.shape:
        return False
    sums = 2**-40 * max(float(bound.abs()) for bound in exact.aminmax()) if exact.numel() else 0.0
    # torch converts float64 to 16 bits through float32, where another sum may round the other way.
    twice = 0.0 if written.dtype == torch.float32 else torch.finfo(torch.float32).eps / 2
    for piece, found in zip(pieces(exact), pieces(written), strict=True):
        wanted = piece.double()
        allowed = wanted.to(written.dtype).double().sub_(wanted).abs_()  # what rounding costs
        allowed += wanted.abs().mul_(twice).add_(sums)
        if not bool((found.double().sub_(wanted).abs_() <= allowed).all()):
            return False
    return True


def pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    """The values of [...] in order, in pieces with small float64 copies, even of an embedding."""
    return tensor.flatten().split(2**22)


def compare_weights(
    base: Weights, written: Weights, alter: Alter, dtype: torch.dtype | None
) -> list[str]:
    """Read a written checkpoint back and compare every tensor with what it should be.

    Args:
        base: what it was made from.
        written: what was made.
        alter: what was applied to each tensor; its float64 results must be there rounded once,
            others bit for bit.
        dtype: of the written weights; None for the base's own.

    Returns:
        Names of the tensors that differ from the base's.

    Raises:
        UserError: a tensor is not what it should be.
    """
    differing = []
    for name in tqdm(base.shapes, desc="reading back", unit="tensor", disable=no_bar()):
        before, after = base.read(name), written.read(name)
        expected, written_dtype = alter(name, before), dtype or before.dtype
        if expected.dtype == torch.float64:
            right = after.dtype == written_dtype and is_rounded(expected, after)
        else:
            right = same_bits(expected.to(written_dtype), after)
        if not right:
            what = "the base's, bit for bit" if expected is before else "what was trained"
            raise difference_error(written, name, what)
        if not same_bits(before.to(written_dtype), after):
            differing.append(name)
    for name, stored in base.unused.items():
        if not same_bits(read_tensor(stored), read_tensor(written.unused[name])):
            raise difference_error(written, name, "the base's, bit for bit")
    return differing


def difference_error(written: Weights, name: str, what: str) -> UserError:
    """The message for a written tensor that is not what it should be."""
    return UserError(f"{written.checkpoint.folder}: tensor {name} is not {what}. Nothing was kept.")
