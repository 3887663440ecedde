"""How a run is spread over processes: every one a whole model (ddp), or every one its shard of it (fsdp2)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import (
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
    StrategyRegistry,
)
from torch import Tensor
from torch.optim import Optimizer

from dsvl_tune.core.errors import UserError
from dsvl_tune.models.runtime.fsdp import whole
from dsvl_tune.training.checkpoints.sharded_io import (
    Checkpoint,
    over_tensors,
    read_checkpoint,
    write_folder,
)

SHARDED = "fsdp2"


class FSDP2(ModelParallelStrategy):
    """Lightning's FSDP2 over all processes of the run, with checkpoints that any other strategy and number reads.

    Lightning's own sizes default to no sharding on one machine; here every process has a shard. Its checkpoints ask for
    every tensor of the model, number the optimizer's in a way that one process does not, or cannot be put together;
    here adapters are gathered, tensor by tensor, into the file that one process writes, and where a part is fully
    trained, every process writes its own shard.

    Args:
        process_group_backend: of torch; None takes gloo on CPU and nccl on GPU.
    """

    def __init__(self, process_group_backend: str | None = None) -> None:
        super().__init__(tensor_parallel_size=1, process_group_backend=process_group_backend)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return dict(self.own_parameters())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state: dict[str, Any] = inner.state_dict()
        return state

    def save_checkpoint(
        self, checkpoint: Checkpoint, filepath: Any, storage_options: Any = None
    ) -> None:
        path = Path(self.broadcast(filepath))
        if not all("lora_" in name for name in checkpoint["state_dict"]):
            write_folder(path, checkpoint)
            return
        gathered = over_tensors(checkpoint, lambda _, tensor: self.gathered(tensor))
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(gathered, path, storage_options=storage_options)

    def gathered(self, tensor: Tensor) -> Tensor:
        """All of a tensor in the first process's memory, nothing in the others'."""
        tensor = whole(tensor)
        return tensor.cpu() if self.is_global_zero else torch.empty(0)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Checkpoint:
        path = Path(self.broadcast(checkpoint_path))
        return read_checkpoint(path, self.own_parameters(), optimizer=bool(self.optimizers))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        Strategy.load_model_state_dict(self, checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        Strategy.load_optimizer_state_dict(self, checkpoint)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def own_parameters(self) -> dict[str, Tensor]:
        """The parameters by name, as they are cut here."""
        assert self.lightning_module is not None
        return dict(self.lightning_module.named_parameters())


def choose_strategy(
    strategy: str | Strategy, devices: int | str | list[int], nodes: int
) -> str | Strategy:
    """What `trainer.strategy` means here.

    Args:
        strategy: of the recipe. devices: `trainer.devices`. nodes: `trainer.num_nodes`.

    Raises:
        UserError: no such strategy, one that would not shard, or that cannot train here; or no number of processes.
    """
    if strategy == "auto" and (nodes > 1 or devices not in (1, "1")):
        strategy = "ddp"
    if strategy in ("ddp", SHARDED) and devices in ("auto", "-1", -1):
        raise UserError(
            f"trainer.strategy: {strategy} with devices {devices}: the rows of a step would depend on the machine. "
            "Give the number of processes on each machine, e.g. --trainer.devices 8."
        )
    if strategy == SHARDED:
        return FSDP2()
    if isinstance(strategy, ModelParallelStrategy) and not isinstance(strategy, FSDP2):
        raise UserError(
            "trainer.strategy: Lightning's ModelParallelStrategy does not shard on one machine by default, and its "
            f"checkpoints are not read by other strategies. Give {SHARDED}."
        )
    if isinstance(strategy, FSDPStrategy) or strategy in ("fsdp", "fsdp_cpu_offload"):
        raise UserError(
            f"trainer.strategy: {strategy} is FSDP's first version, which cannot clip gradients by their norm. Give "
            f"{SHARDED}."
        )
    usable = [
        "auto",
        SHARDED,
        *(name for name in StrategyRegistry.available_strategies() if "fsdp" not in name),
    ]
    if isinstance(strategy, str) and strategy not in usable:
        near = difflib.get_close_matches(strategy, usable, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Usual are auto, ddp and {SHARDED}."
        raise UserError(f"trainer.strategy: there is no {strategy!r}. {hint}")
    return strategy
