"""What a run checkpoint must hold, checked before anything of it is used."""

from __future__ import annotations

from typing import Any

from dsvl_tune.training.checkpoints.run_state import is_plain_tensor, problem_in_run_state

NEEDED = {"state_dict": dict, "global_step": int}
"""Keys that every run checkpoint has, and what they hold."""


def problem_in_content(content: Any) -> str | None:
    """What a run checkpoint's content has that no run writes; None if nothing.

    Looked at are trained tensors, the optimizer state and the state of the run.

    Args:
        content: what a torch file held.
    """
    if not isinstance(content, dict):
        return f"found {type(content).__name__}"
    for key, kind in NEEDED.items():
        if not isinstance(content.get(key), kind):
            return f"{key} is missing or no {kind.__name__}"
    for name, tensor in content["state_dict"].items():
        if not isinstance(name, str) or not is_plain_tensor(tensor):
            return f"state_dict[{name!r}] is no tensor"
    states = content.get("optimizer_states", [])
    if not isinstance(states, list) or len(states) > 1:
        return "optimizer_states is not the state of one optimizer"
    problems = (_problem_in_optimizer(state) for state in states)
    return next(filter(None, problems), None) or problem_in_run_state(content)


def _problem_in_optimizer(state: Any) -> str | None:
    """What an optimizer's state has that torch does not write; None if nothing."""
    if not isinstance(state, dict) or not isinstance(state.get("param_groups"), list):
        return "param_groups of the optimizer are missing"
    numbers: set[int] = set()
    for group in state["param_groups"]:
        if not isinstance(group, dict):
            return f"{type(group).__name__} in param_groups"
        parameters: Any = group.get("params")
        names: Any = group.get("param_names")
        if not _is_list_of(parameters, int) or not _is_list_of(names, str):
            return "params or param_names of the optimizer are missing or of another type"
        if len(parameters) != len(names) or numbers & set(parameters):
            return "params and param_names of the optimizer disagree"
        numbers.update(parameters)
    slots = state.get("state")
    if not isinstance(slots, dict) or not numbers >= slots.keys():
        return "the optimizer has a state of unknown parameters"
    for number, slot in slots.items():
        if not isinstance(slot, dict):
            return f"the optimizer's state of parameter {number} is no mapping"
        for name, value in slot.items():
            # bitsandbytes keeps its tensors of 8 bits below a name of their own.
            values = list(value.values()) if isinstance(value, dict) else [value]
            if not isinstance(name, str) or not all(map(_is_plain, values)):
                return f"the optimizer's {name!r} of parameter {number} is no tensor or number"
    return None


def _is_plain(value: Any) -> bool:
    """Whether an optimizer may keep it: tensors, and a step that some count as a number."""
    return is_plain_tensor(value) or isinstance(value, (int, float))


def _is_list_of(value: Any, kind: type) -> bool:
    """Whether a value is a list of values of one type."""
    return isinstance(value, list) and all(isinstance(one, kind) for one in value)
