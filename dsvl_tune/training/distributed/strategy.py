"""How a run is spread over processes: a whole model on each (ddp) or a shard on each (fsdp2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
    StrategyRegistry,
)
from torch import Tensor
from torch.optim import Optimizer

from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.models.runtime.fsdp import whole
from dsvl_tune.training.checkpoints.sharded_io import (
    RunCheckpoint,
    over_tensors,
    read_checkpoint,
    write_folder,
)

SHARDED = "fsdp2"
"""Name of the sharded strategy in a recipe."""


class FSDP2(ModelParallelStrategy):
    """Lightning's FSDP2 over all processes of a run, with checkpoints that every strategy reads.

    Lightning's default sizes do not shard on a single machine; here every process has a shard.
    Lightning's checkpoints ask for every tensor of the model, number the optimizer's parameters as
    no other strategy does, or cannot be consolidated. Here adapters are gathered tensor by tensor
    into a file that one process writes; where a part is fully trained, each process writes its
    own shard.

    Args:
        process_group_backend: of torch; None takes gloo on CPU and nccl on GPU.
    """

    def __init__(self, process_group_backend: str | None = None) -> None:
        super().__init__(tensor_parallel_size=1, process_group_backend=process_group_backend)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return dict(self.sharded_parameters())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state: dict[str, Any] = inner.state_dict()
        return state

    def save_checkpoint(
        self, checkpoint: RunCheckpoint, filepath: Any, storage_options: Any = None
    ) -> None:
        path = Path(self.broadcast(filepath))
        if not all("lora_" in name for name in checkpoint["state_dict"]):
            write_folder(path, checkpoint)
            return
        gathered = over_tensors(checkpoint, lambda _, tensor: self.gather(tensor))
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(gathered, path, storage_options=storage_options)

    def gather(self, tensor: Tensor) -> Tensor:
        """The whole tensor on the CPU of rank 0; an empty tensor on the other ranks.

        Args:
            tensor: of any shape and dtype, sharded or not; every rank must call this.
        """
        tensor = whole(tensor)
        return tensor.cpu() if self.is_global_zero else torch.empty(0)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> RunCheckpoint:
        path = Path(self.broadcast(checkpoint_path))
        return read_checkpoint(path, self.sharded_parameters(), optimizer=bool(self.optimizers))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        Strategy.load_model_state_dict(self, checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        Strategy.load_optimizer_state_dict(self, checkpoint)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def sharded_parameters(self) -> dict[str, Tensor]:
        """The parameters of this rank by name, as DTensors of their whole shape and own dtype."""
        assert self.lightning_module is not None
        return dict(self.lightning_module.named_parameters())


def choose_strategy(
    strategy: str | Strategy, devices: int | str | list[int], nodes: int
) -> str | Strategy:
    """The strategy that `trainer.strategy` stands for.

    Args:
        strategy: `trainer.strategy` of the recipe.
        devices: `trainer.devices`.
        nodes: `trainer.num_nodes`.

    Raises:
        UserError: the strategy is unknown, does not shard or cannot train here; or the number of
            processes is not fixed.
    """
    if strategy == "auto" and (nodes > 1 or devices not in (1, "1")):
        strategy = "ddp"
    if strategy in ("ddp", SHARDED) and devices in ("auto", "-1", -1):
        raise UserError(
            f"trainer.strategy: {strategy} with devices {devices}: the rows of a step would depend "
            "on the machine. Give the number of processes per machine, e.g. --trainer.devices 8."
        )
    if strategy == SHARDED:
        return FSDP2()
    if isinstance(strategy, ModelParallelStrategy) and not isinstance(strategy, FSDP2):
        raise UserError(
            "trainer.strategy: Lightning's ModelParallelStrategy does not shard on one machine by "
            f"default, and other strategies cannot read its checkpoints. Use {SHARDED}."
        )
    if isinstance(strategy, FSDPStrategy) or strategy in ("fsdp", "fsdp_cpu_offload"):
        raise UserError(
            f"trainer.strategy: {strategy} is FSDP's first version, which cannot clip gradients by "
            f"their norm. Use {SHARDED}."
        )
    if isinstance(strategy, str) and strategy not in usable_strategies():
        raise unknown_name("trainer.strategy", strategy, usable_strategies())
    return strategy


def usable_strategies() -> list[str]:
    """Names that `trainer.strategy` takes."""
    of_lightning = [name for name in StrategyRegistry.available_strategies() if "fsdp" not in name]
    return ["auto", SHARDED, *of_lightning]


def allow_unused_parameters(trainer: L.Trainer) -> None:
    """Make DDP find the parameters that a step did not use, unless the recipe says otherwise.

    A text-only batch uses no parameter of the vision side. By default DDP waits for their gradients
    where another rank has an image, and the run hangs. A recipe opts out by
    `ddp_find_unused_parameters_false`.
    """
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
