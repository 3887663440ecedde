"""States of optimizers and schedules in a checkpoint that do not fit the run that resumes."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from dsvl_tune.core.errors import UserError
from dsvl_tune.training.optim import check_group, check_slots
from dsvl_tune.training.run.restoring import problem_in_schedules


def stepped(kind: Any = AdamW, **options: Any) -> Any:
    """An optimizer of one named matrix after a step."""
    weight = torch.ones(2, 3, requires_grad=True)
    weight.grad = torch.ones(2, 3)
    optimizer = kind([{"params": [("w", weight)], "name": "part"}], lr=0.1, **options)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_what_an_optimizer_wrote_fits_it(kind: Any) -> None:
    optimizer = stepped(kind, **({"momentum": 0.9} if kind is SGD else {"amsgrad": True}))
    state = optimizer.state_dict()
    check_slots(optimizer, state["state"])
    check_group(state["param_groups"][0], state["param_groups"][0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": math.nan}, "no lr of finite"),
        ({"lr": "x"}, "no lr of finite"),
        ({"betas": (0.9,)}, "no betas of finite"),
        ({"betas": [[]]}, "no betas of finite"),
        ({"weight_decay": None}, "no weight_decay"),
        ({"step": 3}, "has step, which"),
        ({"amsgrad": True}, "another amsgrad"),
        ({"foreach": "x"}, "another foreach"),
    ],
)
def test_groups_that_do_not_fit(changes: dict[str, Any], said: str) -> None:
    (own,) = stepped().state_dict()["param_groups"]
    with pytest.raises(UserError, match=said):
        check_group(own, {**own, **changes})
    with pytest.raises(UserError, match="group part of the checkpoint's optimizer is missing"):
        check_group(own, None)


def test_flags_of_another_release_of_torch_may_be_missing() -> None:
    (own,) = stepped().state_dict()["param_groups"]
    check_group(own, {key: value for key, value in own.items() if key != "decoupled_weight_decay"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": torch.tensor(-1.0)}, "a step that is no count"),
        ({"step": math.inf}, "a step that is no count"),
        ({"exp_avg": torch.zeros(3, 2)}, r"no tensor exp_avg of shape \[2, 3\]"),
        ({"exp_avg": 7}, r"no tensor exp_avg of shape \[2, 3\]"),
        ({"exp_avg_sq": None}, "other values than AdamW keeps"),
        ({"momentum_buffer": torch.zeros(2, 3)}, "other values than AdamW keeps"),
    ],
)
def test_slots_that_do_not_fit(changes: dict[str, Any], said: str) -> None:
    optimizer = stepped()
    slots = copy.deepcopy(optimizer.state_dict()["state"])
    slots[0] = {key: one for key, one in {**slots[0], **changes}.items() if one is not None}
    with pytest.raises(UserError, match=said):
        check_slots(optimizer, slots)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": 1}, "step is only in one"),
        ({"T_max": math.nan}, "T_max is of another kind"),
        ({"base_lrs": [0.1, 0.1]}, "base_lrs is of another kind"),
        ({"_is_initial": 2}, "_is_initial is of another kind"),
    ],
)
def test_schedules_that_do_not_fit(changes: dict[str, Any], said: str) -> None:
    own = CosineAnnealingLR(stepped(), T_max=4).state_dict()
    assert problem_in_schedules([own], [own]) is None
    assert said in str(problem_in_schedules([own], [{**own, **changes}]))
    assert problem_in_schedules([own], []) == "it has 0 schedules, the run has 1"
    other = LambdaLR(stepped(), lambda step: 1.0).state_dict()
    assert "only in one" in str(problem_in_schedules([own], [other]))
