"""LoRA on stacked experts: peft's adapters and files, computed without a copy of the experts.

peft calls it `target_parameters`. It wraps the module of the experts once for each adapted tensor,
so the tensors of one module are told apart in its files by the depth of the wrapper alone: the
first parameter of the module is wrapped first, by the innermost one.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from peft import LoraConfig
from peft.tuners.lora import ParamWrapper
from torch import Tensor, nn

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Parts, Plan
from dsvl_tune.families.experts import LowRank, StackedExperts

Variant = Literal["lora", "rslora", "dora"]


class GroupedAdapter(ParamWrapper):
    """peft's adapter of one tensor of stacked experts, as two more grouped matmuls.

    peft's own forward adds B A to the matrices of all experts in every step, a copy of each layer's
    experts that is kept for the backward pass.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the experts return, with the adapters of this wrapper and of those inside it."""
        adapters: dict[str, LowRank] = {}
        module: Any = self
        while isinstance(module, GroupedAdapter):
            if not (module.merged or module.disable_adapters):
                adapters[module.parameter_name] = module.low_rank()
            module = module.base_layer
        result: Tensor = module(x, *args, **kwargs, adapters=adapters)
        return result

    def low_rank(self) -> LowRank:
        """The active adapter; the order of ranks and experts is peft's (`get_delta_factors`)."""
        (name,) = self.active_adapters
        shape = (self.num_experts, self.out_features, self.in_features)
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        return LowRank(*stacked_factors(a, b, shape, self.parameter_name), self.scaling[name])


def use_grouped_adapters(model: nn.Module) -> None:
    """Give peft's adapters of stacked experts the forward above, in place."""
    for module in model.modules():
        wrapper: Any = module
        if type(module) is ParamWrapper and isinstance(wrapper.get_base_layer(), StackedExperts):
            module.__class__ = GroupedAdapter


@contextmanager
def quiet_patterns() -> Iterator[None]:
    """Within this context peft does not warn that patterns of ranks fit no module.

    It compares them with modules alone (peft 0.21), but applies those of parameters too.
    """
    with warnings.catch_warnings():
        message = r"The following (rank|alpha)_pattern keys did not match any targeted module"
        warnings.filterwarnings("ignore", message, RuntimeWarning)
        yield


def check_expert_adapters(plan: Plan, parts: Parts, variant: Variant, dropout: float) -> None:
    """Compare a plan's adapters with what there is for experts, before anything is loaded.

    Args:
        plan: for every part of the family.
        parts: of the family.
        variant: of all adapters.
        dropout: on the adapters' input.

    Raises:
        UserError: experts are to have DoRA, or dropout.
    """
    for part, how in plan.items():
        if how.mode != "lora" or not parts[part].is_experts:
            continue
        if variant == "dora":
            raise UserError(
                f"model.lora_variant: {part} cannot have dora, only lora or rslora: peft has no "
                "DoRA for stacked experts."
            )
        if dropout:
            raise UserError(
                f"model.lora_dropout: {part} cannot have dropout on its adapters, as peft has none "
                "for stacked experts. Set it to 0."
            )


def adapted_parameter(module: ParamWrapper, name: str) -> str:
    """The base's name of the tensor that a wrapper of this name adapts."""
    return f"{name.partition('.base_layer')[0]}.{module.parameter_name}"


def wrapped_parameters(config: LoraConfig, names: Collection[str]) -> dict[str, str]:
    """The parameters that an adapter wraps: name of each wrapper in peft's file -> parameter.

    Args:
        config: of the adapter.
        names: of the base's parameters, in the order of its modules.
    """
    targets = tuple(f".{target}" for target in config.target_parameters or ())
    modules: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if f".{name}".endswith(targets):
            modules[name.rpartition(".")[0]].append(name)
    return {
        module + ".base_layer" * (len(wrapped) - 1 - position): name
        for module, wrapped in modules.items()
        for position, name in enumerate(wrapped)
    }


def stacked_factors(
    a: Tensor, b: Tensor, shape: tuple[int, ...], place: str
) -> tuple[Tensor, Tensor]:
    """The factors of each expert's adapter from the two tensors of peft's file.

    Args:
        a: [E * rank, K], any floating dtype.
        b: [N, rank * E], likewise.
        shape: [E, N, K] of the adapted parameter.
        place: of the adapter, for the message.

    Returns:
        [E, rank, K] and [E, N, rank], as views.

    Raises:
        UserError: they do not fit the parameter.
    """
    fits = len(shape) == 3 and a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1]
    if not fits or a.shape[0] % shape[0] or (b.shape[0], a.shape[1]) != shape[1:]:
        raise UserError(
            f"{place} has lora_A {list(a.shape)} and lora_B {list(b.shape)}, which do not fit the "
            f"base's tensor {list(shape)}. Was another base trained?"
        )
    return (
        a.unflatten(0, (shape[0], -1)),
        b.unflatten(1, (-1, shape[0])).permute(2, 0, 1),
    )
