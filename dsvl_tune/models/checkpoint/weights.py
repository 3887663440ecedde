"""The tensors of a checkpoint in either layout, under transformers' names, one at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PretrainedConfig

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.checkpoint.pickled_weights import SUFFIX as PICKLED
from dsvl_tune.core.checkpoint.pickled_weights import pickled_tensors
from dsvl_tune.core.checkpoint.weight_headers import Stored, read_header
from dsvl_tune.core.dtypes import NAMES_IN_FILES
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Family, Shapes, TensorGroup, part_of

ORIGINAL_FOLDER = "original"
"""In a checkpoint made from the original layout: what transformers has no place for."""

UNUSED = f"{ORIGINAL_FOLDER}/unused.safetensors"

LARGEST_WEIGHT = 1e18
"""Norms and AdamW square: the squares of larger values, added over a layer's width, are not finite
in float32. A norm then makes zeros of everything, and every result is finite and useless."""


class Weights:
    """Every tensor of a checkpoint, compared with its config before one is read.

    Args:
        checkpoint: whose tensors these are.

    Attributes:
        checkpoint: the same.
        shapes: of every tensor, by its name in transformers' layout.
        groups: every name in transformers' layout -> its tensors in both layouts.
        stored: every name in transformers' layout -> the tensors in the files that hold its values.
        unused: tensors of the original layout that transformers has no place for, by their original
            names; a checkpoint that was made from an original one has them in a side file.

    Raises:
        UserError: a tensor is missing, left over, of another shape or dtype than the config says,
            or a file differs from what SHA256SUMS lists.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        family, config = checkpoint.family, checkpoint.config
        checkpoint.check_weight_files()
        self.shapes = expected_shapes(config, family, checkpoint.folder)
        self.groups: dict[str, TensorGroup] = {}
        for name in self.shapes:
            group = family.tensor_group(name, config)
            if group is None:  # such as a pooling head of SigLIP, which transformers can add
                raise UserError(
                    f"{checkpoint.folder}/config.json: it describes a tensor {name}, which no "
                    f"{family.name} model has."
                )
            self.groups[name] = group
        self.stored: dict[str, tuple[Stored, ...]] = {}
        self.unused: dict[str, Stored] = {}
        if self.is_original:
            self._find_original(family.unused_tensors(config))
        else:
            self._find_converted(family.unused_tensors(config))

    @property
    def loaded_names(self) -> list[str]:
        """Names of the tensors that a model is made of: all but those of carried parts."""
        parts = self.checkpoint.family.parts
        return [name for name in self.shapes if not parts[part_of(name, parts)].carried]

    @property
    def is_original(self) -> bool:
        """Whether the checkpoint is in the original layout."""
        return self.checkpoint.layout == "original"

    def _find_original(self, unused: Shapes) -> None:
        """Find every tensor in a checkpoint of the original layout."""
        headers = self.checkpoint.headers
        self.unused = {name: headers[name] for name in unused if name in headers}
        # A checkpoint that came from transformers has none of these, the published ones have all.
        needed = unused if self.unused else {}
        expected = {**original_shapes(self.shapes, self.groups), **needed}
        check_tensors(self.checkpoint.folder, headers, expected)
        for name, group in self.groups.items():
            self.stored[name] = tuple(headers[original] for original in group.original)

    def _find_converted(self, unused: Shapes) -> None:
        """Find every tensor in a checkpoint of transformers' layout, and those of the side file."""
        family, folder = self.checkpoint.family, self.checkpoint.folder
        headers = {
            family.current_name(name): stored for name, stored in self.checkpoint.headers.items()
        }
        check_tensors(folder, headers, self.shapes)
        self.stored = {name: (stored,) for name, stored in headers.items()}
        side = folder / UNUSED
        if side.is_file():
            self.unused = read_header(side)
        check_tensors(side, self.unused, unused if self.unused else {})

    def read(self, name: str, rows: slice = slice(None)) -> Tensor:
        """A tensor by its name in transformers' layout, copied.

        Args:
            name: of the tensor.
            rows: along its first axis; nothing else is copied.

        Returns:
            [rows, ...] in the dtype of its file.

        Raises:
            UserError: it holds a value that is not finite, or above `LARGEST_WEIGHT`.
        """
        if not self.is_original:
            return read_tensors(self.stored[name], lambda tensors: tensors[0][rows])
        group = self.groups[name]
        index = group.transformers.index(name)
        return read_tensors(
            self.stored[name], lambda tensors: group.to_transformers(tensors)[index][rows]
        )

    def count(self) -> int:
        """Tensors in the files, the side file's too."""
        found = {(stored.path, stored.name) for stored in self.unused.values()}
        for places in self.stored.values():
            found |= {(stored.path, stored.name) for stored in places}
        return len(found)


def read_tensors(places: Sequence[Stored], select: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
    """What `select` makes of some tensors in files, copied: somebody may overwrite the files.

    Args:
        places: the tensors.
        select: from the tensors, of their files' shapes and dtypes, to a view or a new tensor.

    Returns:
        Of the shape and dtype that `select` gives.

    Raises:
        UserError: it holds a value that is not finite, or above `LARGEST_WEIGHT`.
    """
    with ExitStack() as opened:
        tensors = []
        for stored in places:
            if stored.path.suffix == PICKLED:
                tensors.append(pickled_tensors(stored.path)[stored.name])
                continue
            file = opened.enter_context(safe_open(stored.path, framework="pt"))
            tensors.append(file.get_tensor(stored.name))
        tensor = select(tensors).clone()
    if not is_usable(tensor):
        raise UserError(
            f"{places[0].path}: tensor {places[0].name} holds values that are not finite, or above "
            f"{LARGEST_WEIGHT:g}. Copy the file again; if it was trained, the steps were too large."
        )
    return tensor


def is_usable(tensor: Tensor) -> bool:
    """Whether all values of a weight can be computed with.

    Args:
        tensor: of any shape and floating dtype.
    """
    bounds = tensor.aminmax() if tensor.numel() else ()
    return all(abs(float(bound)) <= LARGEST_WEIGHT for bound in bounds)  # False for NaN


def read_tensor(stored: Stored) -> Tensor:
    """One tensor of a file, copied, of the file's shape and dtype.

    Raises:
        UserError: it holds a value that is not finite, or above `LARGEST_WEIGHT`.
    """
    return read_tensors([stored], lambda tensors: tensors[0])


def read_floating_header(path: Path) -> dict[str, Stored]:
    """Every tensor of one safetensors file of floating values.

    Raises:
        UserError: the file is missing, damaged or truncated, or holds a tensor of another kind.
    """
    header = read_header(path)
    for name, stored in header.items():
        if stored.dtype not in NAMES_IN_FILES:
            raise UserError(
                f"{path}: tensor {name} is {stored.dtype}, expected one of "
                f"{', '.join(NAMES_IN_FILES)}. Copy the file again."
            )
    return header


def expected_shapes(config: PretrainedConfig, family: Family, folder: Path) -> Shapes:
    """Name and shape of every tensor of transformers' class for a config; nothing is allocated.

    Args:
        config: of a checkpoint.
        family: of the checkpoint.
        folder: of the checkpoint, for the message.

    Raises:
        UserError: no model can be built from the config.
    """
    config = copy.deepcopy(config)
    try:
        with torch.device("meta"):
            model = family.model_class(config)(config)
    except Exception as error:  # any: each module of transformers checks its sizes in its own way
        raise UserError(
            f"{folder}/config.json: no model can be built from it "
            f"({type(error).__name__}: {error}). Copy it again."
        ) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes


def original_shapes(shapes: Shapes, groups: dict[str, TensorGroup]) -> Shapes:
    """Shapes of the original layout's tensors.

    Args:
        shapes: by name in transformers' layout.
        groups: likewise.
    """
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    found: Shapes = {}
    for group in groups.values():
        if group.original[0] not in found:
            tensors = group.to_original([empty[name] for name in group.transformers])
            for name, tensor in zip(group.original, tensors, strict=True):
                found[name] = tuple(tensor.shape)
    return found


def check_tensors(place: Path, found: dict[str, Stored], expected: Shapes) -> None:
    """Compare the headers of a checkpoint with what they must be.

    Args:
        place: of the checkpoint, for the message.
        found: tensors in its files.
        expected: shapes.

    Raises:
        UserError: naming the first tensor of each fault as its file does.
    """
    faults = []
    if missing := [name for name in expected if name not in found]:
        faults.append(f"missing: {missing[0]} {list(expected[missing[0]])} ({len(missing)} such)")
    if extra := [stored.name for name, stored in found.items() if name not in expected]:
        faults.append(f"not expected: {extra[0]} ({len(extra)} such)")
    shared = [(stored, expected[name]) for name, stored in found.items() if name in expected]
    if wrong := [(stored, shape) for stored, shape in shared if stored.shape != shape]:
        stored, shape = wrong[0]
        faults.append(
            f"{stored.name}: shape {list(stored.shape)}, expected {list(shape)} ({len(wrong)} such)"
        )
    if strange := [stored for stored, _ in shared if stored.dtype not in NAMES_IN_FILES]:
        known = ", ".join(NAMES_IN_FILES)
        faults.append(
            f"{strange[0].name}: dtype {strange[0].dtype}, expected one of {known} "
            f"({len(strange)} such)"
        )
    if faults:
        raise UserError(
            f"{place}: weights and config.json do not fit together: {'; '.join(faults)}."
        )
