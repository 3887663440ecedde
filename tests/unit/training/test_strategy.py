"""What the names of strategies mean, and that no default leaves a run unsharded or a process waiting."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, StrategyRegistry

from dsvl_tune.core.errors import UserError
from dsvl_tune.training.distributed.strategy import FSDP2, choose_strategy


def test_several_processes_are_ddp_unless_said_otherwise() -> None:
    assert choose_strategy("auto", 2, 1) == "ddp"


def test_one_process_has_no_strategy() -> None:
    assert choose_strategy("auto", 1, 1) == "auto"


def test_every_process_gets_a_shard() -> None:
    """The trap: Lightning's sizes are data over machines and tensors over devices, so one machine does not shard."""
    chosen = choose_strategy("fsdp2", 4, 2)
    assert isinstance(chosen, FSDP2) and chosen._tensor_parallel_size == 1


@pytest.mark.parametrize(
    "strategy", [ModelParallelStrategy(), FSDPStrategy(), "fsdp", "fsdp_cpu_offload"]
)
def test_what_does_not_shard_or_clip_is_refused(strategy: Any) -> None:
    with pytest.raises(UserError, match="Give fsdp2"):
        choose_strategy(strategy, 2, 1)


@pytest.mark.parametrize(
    ("strategy", "meant"), [("fsdp3", "'fsdp2'"), ("dpp", "'ddp'"), ("fdsp2", "'fsdp2'")]
)
def test_a_strategy_that_there_is_not_is_told_with_the_nearest(strategy: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"there is no {strategy!r}. Did you mean {meant}?"):
        choose_strategy(strategy, 1, 1)


def test_a_strategy_that_is_like_none() -> None:
    with pytest.raises(UserError, match="there is no 'zero'. Usual are auto, ddp and fsdp2."):
        choose_strategy("zero", 1, 1)


@pytest.mark.parametrize("strategy", StrategyRegistry.available_strategies())
def test_what_lightning_names_is_known(strategy: str) -> None:
    if not strategy.startswith("fsdp"):
        assert choose_strategy(strategy, 1, 1) == strategy


@pytest.mark.parametrize("strategy", ["auto", "ddp", "fsdp2"])
@pytest.mark.parametrize("devices", ["auto", -1, "-1"])
def test_the_recipe_says_how_many_processes(strategy: str, devices: Any) -> None:
    with pytest.raises(UserError, match="Give the number of processes"):
        choose_strategy(strategy, devices, 1)
