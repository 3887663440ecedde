"""The tensors of a checkpoint in either layout, under transformers' names, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridForConditionalGeneration,
    PretrainedConfig,
)

from dsvl_tune.core.checksums import check_own_sums
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.weight_headers import Stored, is_original, read_header, read_headers
from dsvl_tune.families.deepseek_vl.key_map import (
    SIGLIP_HF,
    SIGLIP_HF_OLD,
    Pair,
    pair_of_transformers,
    unused_shapes,
)

CLASSES = {
    "deepseek_vl": DeepseekVLForConditionalGeneration,
    "deepseek_vl_hybrid": DeepseekVLHybridForConditionalGeneration,
}
DTYPES = ("F32", "F16", "BF16")
ORIGINAL_FOLDER = "original"
"""In a checkpoint made from the original layout: what transformers has no place for."""
UNUSED = f"{ORIGINAL_FOLDER}/unused.safetensors"

Shapes = dict[str, tuple[int, ...]]


class Weights:
    """Every tensor of a checkpoint folder, held against its config before one is read.

    Attributes:
        folder: of the checkpoint. config: from `read_config`. original: whether it is in the original layout.
        shapes: of every tensor, by its name in transformers' layout.
        pairs: every name in transformers' layout -> its pair in the key table.
        stored: every name in transformers' layout -> where its values lie.
        unused: tensors of the original layout that transformers has no place for, by their original names; a
            checkpoint that was made from an original one has them in a side file.

    Raises:
        UserError: a tensor is missing, left over, of another shape or kind than the config says, or a file is not what
            SHA256SUMS says.
    """

    def __init__(self, folder: Path, config: PretrainedConfig) -> None:
        self.folder, self.config, self.original = folder, config, is_original(folder)
        check_own_sums(folder, weights=True)
        self.shapes = expected_shapes(folder, config)
        self.pairs = {name: pair_of(name, config.model_type) for name in self.shapes}
        headers, unread = read_headers(folder), unused_of(config)
        if self.original:
            self.unused = {name: headers[name] for name in unread if name in headers}
            # a checkpoint that came from transformers has none of them, the published ones have all
            needed = unread if self.unused else {}
            check_tensors(folder, headers, {**original_shapes(self.shapes, self.pairs), **needed})
            self.stored = {name: headers[pair.original] for name, pair in self.pairs.items()}
        else:
            self.stored = {
                name.replace(SIGLIP_HF_OLD, SIGLIP_HF, 1): found for name, found in headers.items()
            }
            check_tensors(folder, self.stored, self.shapes)
            side = folder / UNUSED
            self.unused = read_header(side) if side.is_file() else {}
            check_tensors(side, self.unused, unread if self.unused else {})

    def read(self, name: str, rows: slice = slice(None)) -> Tensor:
        """The tensor of this name in transformers' layout, in the dtype of its file.

        Args:
            name: of the tensor. rows: along its first axis; nothing else is read.

        Raises:
            UserError: it holds a value that is not finite.
        """
        pair = self.pairs[name]
        index = pair.transformers.index(name)
        return read_tensor(
            self.stored[name], lambda t: (pair.split(t)[index] if self.original else t)[rows]
        )

    def count(self) -> int:
        """Tensors in the files, the side file's too."""
        return len(
            {
                (stored.path, stored.name)
                for stored in (*self.stored.values(), *self.unused.values())
            }
        )


def read_tensor(stored: Stored, part: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
    """One tensor of a file, or the part of it that `part` views; copied, for somebody may write over the file.

    Raises:
        UserError: it holds a value that is not finite.
    """
    with safe_open(stored.path, framework="pt") as file:
        tensor = part(file.get_tensor(stored.name)).clone()
    if tensor.numel() and not all(bound.isfinite() for bound in tensor.aminmax()):
        raise UserError(
            f"{stored.path}: tensor {stored.name} holds values that are not finite. Copy the file again."
        )
    return tensor


def read_file(path: Path) -> dict[str, Tensor]:
    """Every tensor of one safetensors file.

    Raises:
        UserError: the file is missing, damaged or truncated, or holds a value that is not finite.
    """
    return {name: read_tensor(stored) for name, stored in read_header(path).items()}


def expected_shapes(folder: Path, config: PretrainedConfig) -> Shapes:
    """Name and shape of every tensor that transformers' class has for this config; nothing is allocated.

    Raises:
        UserError: no model can be built from the config.
    """
    try:
        with torch.device("meta"):
            model = CLASSES[config.model_type](config)
    except Exception as error:  # any: each of transformers' modules checks its sizes in its own way
        raise UserError(
            f"{folder}/config.json: no model can be built from it ({type(error).__name__}: {error}). Copy it again."
        ) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes


def pair_of(name: str, family: str) -> Pair:
    """The key table's entry of a name in transformers' layout, which it must have."""
    pair = pair_of_transformers(name, family)
    assert pair is not None, f"{name} of transformers' {family} is not in the key table"
    return pair


def original_shapes(shapes: Shapes, pairs: dict[str, Pair]) -> Shapes:
    """Shapes in transformers' layout -> those of the original's tensors."""
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return {
        pair.original: tuple(pair.join([empty[name] for name in pair.transformers]).shape)
        for pair in dict.fromkeys(pairs.values())
    }


def unused_of(config: PretrainedConfig) -> Shapes:
    """Names and shapes of the original's tensors that transformers has no place for."""
    vision, sam = config.vision_config, getattr(config, "high_res_vision_config", None)
    # transformers fixes the two downsampling convolutions at 2 and 4 times the neck's channels
    high_width = 4 * sam.output_channels if sam else 0
    return unused_shapes(
        config.model_type, vision.hidden_size, vision.intermediate_size, high_width
    )


def check_tensors(place: Path, found: dict[str, Stored], expected: Shapes) -> None:
    """Names, shapes and dtypes of a checkpoint's headers against what they must be.

    Raises:
        UserError: naming the first tensor of each fault, in the file's own words.
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
    if strange := [stored for stored, _ in shared if stored.dtype not in DTYPES]:
        kinds = ", ".join(DTYPES)
        faults.append(
            f"{strange[0].name}: dtype {strange[0].dtype}, expected one of {kinds} ({len(strange)} such)"
        )
    if faults:
        raise UserError(
            f"{place}: weights and config.json do not fit together: {'; '.join(faults)}."
        )
