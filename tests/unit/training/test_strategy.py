"""Strategy names, and defaults that would leave a run unsharded or a process waiting."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, StrategyRegistry

from dsvl_tune.core.errors import UserError
from dsvl_tune.training.distributed.strategy import FSDP2, choose_strategy


def test_several_processes_are_ddp_by_default() -> None:
    assert choose_strategy("auto", 2, 1) == "ddp"


def test_one_process_has_no_strategy() -> None:
    assert choose_strategy("auto", 1, 1) == "auto"


def test_every_process_gets_a_shard() -> None:
    """Lightning's defaults shard data over machines only, so one machine would not shard."""
    chosen = choose_strategy("fsdp2", 4, 2)
    assert isinstance(chosen, FSDP2) and chosen._tensor_parallel_size == 1


@pytest.mark.parametrize(
    "strategy", [ModelParallelStrategy(), FSDPStrategy(), "fsdp", "fsdp_cpu_offload"]
)
def test_strategies_that_cannot_shard_or_clip_are_refused(strategy: Any) -> None:
    with pytest.raises(UserError, match="Use fsdp2"):
        choose_strategy(strategy, 2, 1)


@pytest.mark.parametrize(
    ("strategy", "nearest"), [("fsdp3", "'fsdp2'"), ("dpp", "'ddp'"), ("fdsp2", "'fsdp2'")]
)
def test_an_unknown_strategy_suggests_the_nearest(strategy: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"{strategy!r}. Did you mean {nearest}"):
        choose_strategy(strategy, 1, 1)


def test_an_unknown_strategy_without_a_near_one_lists_all() -> None:
    with pytest.raises(UserError, match="'zero'. Known: auto, fsdp2, .*ddp"):
        choose_strategy("zero", 1, 1)


def test_strategies_that_lightning_names_pass_unchanged() -> None:
    names = [name for name in StrategyRegistry.available_strategies() if "fsdp" not in name]
    assert "ddp" in names and "ddp_spawn" in names
    assert [choose_strategy(name, 1, 1) for name in names] == names


@pytest.mark.parametrize("strategy", ["auto", "ddp", "fsdp2"])
@pytest.mark.parametrize("devices", ["auto", -1, "-1"])
def test_the_number_of_processes_must_be_given(strategy: str, devices: Any) -> None:
    with pytest.raises(UserError, match="Give the number of processes"):
        choose_strategy(strategy, devices, 1)
