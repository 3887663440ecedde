"""A CUDA device without a card: tensors say that they are on it, and the CPU computes.

torch takes every branch for CUDA that is above the kernels (autocast, streams of autograd), and
this package and its dependencies take theirs. As on a card, tensors of two devices in an operation
are an error. Whenever the host would wait for the device, that is recorded.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
COPIES = {"aten::_to_copy", "aten::copy_"}
LOOKUPS = {"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}
PACKAGES = ("dsvl_tune", "transformers", "peft")


class PretendedTensor(Tensor):
    """A tensor on the pretended device.

    Attributes:
        inner: its values, on the CPU.
    """

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendedTensor:
        made: PretendedTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CUDA,
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return str(self.tolist())

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of PretendedCuda")


class PretendedCuda(TorchDispatchMode):
    """Within it, `device="cuda"` is the pretended device.

    Attributes:
        waits: where the host waited for the device, in order: package and function.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
        device = kwargs.get("device")
        on_device = bool(ours) if device is None else torch.device(device).type == "cuda"
        name = func._schema.name
        if ours:
            self._check(name, tensors, on_device)
        # What an operation changes in place or gives back stays the same tensor.
        known = {id(tensor.inner): tensor for tensor in ours}

        def wrap(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not on_device:
                return leaf
            return known[id(leaf)] if id(leaf) in known else PretendedTensor(leaf)

        return tree_map(wrap, func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs)))

    def _check(self, name: str, tensors: list[Tensor], on_device: bool) -> None:
        """Refuse tensors of two devices, and record a wait.

        Args:
            name: of an operation that takes a tensor on the device.
            tensors: all that it takes.
            on_device: whether its result is there.
        """
        others = [one for one in tensors if not isinstance(one, PretendedTensor) and one.ndim]
        # The places of a lookup may be on the host: they are copied.
        if on_device and others and name not in COPIES | LOOKUPS:
            raise RuntimeError(f"{name} of tensors on cuda and cpu")
        is_lookup = name in LOOKUPS and (others or torch.bool in [t.dtype for t in tensors[1:]])
        if name in WAITING or is_lookup or (name in COPIES and not on_device):
            self.waits.append(caller())


def unwrap(leaf: Any) -> Any:
    """What the CPU computes with, instead of a tensor on the device or its name."""
    if isinstance(leaf, PretendedTensor):
        return leaf.inner
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def caller() -> tuple[str, str]:
    """Package and name of its innermost function that is running; ("", "") in a backward pass."""
    for frame in reversed(traceback.extract_stack()):
        package = next((name for name in PACKAGES if f"/{name}/" in frame.filename), None)
        if package is not None:
            return package, f"{Path(frame.filename).stem}.{frame.name}"
    return "", ""


@contextmanager
def pretended_cuda() -> Iterator[PretendedCuda]:
    """A card with bfloat16, for torch's own functions too; wherever tensors are used on it."""
    answers = {
        "is_available": True,
        "device_count": 1,
        "is_bf16_supported": True,
        "get_device_capability": (9, 0),
        "_lazy_init": None,
    }
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch, PretendedCuda() as device:
        for name, answer in answers.items():
            patch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
        # `Module.to` then makes new parameters: the old ones cannot change their class.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device="cuda")` is a copy
        try:
            yield device
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
