"""Whether plain peft can hold fully trained tensors: as modules that it replaces as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from torch import nn

CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.ParameterDict, nn.ParameterList)
"""peft replaces none of these: they have no forward (peft/utils/other.py, check_module)."""


def whole_modules(
    model: nn.Module, trained: Collection[str], known: Collection[str]
) -> list[str] | None:
    """The modules that hold exactly these parameters, each as large as possible.

    Args:
        model: with or without adapters.
        trained: names of fully trained parameters.
        known: names of the modules among which peft looks for its own.

    Returns:
        Names for peft's `modules_to_save`; None where there are no such modules: a bare parameter
        of a module that is not trained as a whole, a tensor that two modules share, or a name that
        peft would find in other modules, too (it compares the ends of names).
    """
    places = Counter(
        id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)
    )
    parameters = dict(model.named_parameters())
    if any(places[id(parameters[name])] > 1 for name in trained):
        return None
    modules = _largest(model, "", set(trained))
    if modules is None:
        return None
    unique = all(sum(name.endswith(module) for name in known) == 1 for module in modules)
    return modules if unique else None


def _largest(module: nn.Module, name: str, trained: set[str]) -> list[str] | None:
    """As `whole_modules`, for the trained parameters within one module of this name."""
    prefix = f"{name}." if name else ""
    own = {prefix + inner for inner, _ in module.named_parameters()}
    if not own & trained:
        return []
    if name and own <= trained and not isinstance(module, CONTAINERS):
        return [name]
    if any(prefix + inner in trained for inner, _ in module.named_parameters(recurse=False)):
        return None
    found: list[str] = []
    for child_name, child in module.named_children():
        inner = _largest(child, prefix + child_name, trained)
        if inner is None:
            return None
        found += inner
    return found
