"""Keys of Lightning's Trainer: our defaults, and those that a run cannot honor.

Imports nothing heavy, so that help is fast.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.machine import available_cores

TRAINER_DEFAULTS: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "precision": "32-true",
    "gradient_clip_val": 1.0,  # arXiv 2403.05525, table 4
    "num_sanity_val_steps": 0,  # the evaluation before training has run the same path
    "use_distributed_sampler": False,  # the data module's own sampler knows ranks and resumes
    "log_every_n_steps": 10,
    "enable_model_summary": False,  # the plan lists the model parts
}
"""Arguments of Lightning's Trainer that differ from Lightning's own defaults."""

PROCESSES_PER_CORE = 4
"""CPU processes of a run that a core can be asked to share; a larger number is a mistake."""
WORKERS_PER_CORE = 16
"""Data workers that a core can be asked to share: they wait for disks and downloads, too."""


def _is_given(value: Any) -> bool:
    return value is not None


def _has_duration(value: Any) -> bool:
    """Whether "DD:HH:MM:SS", a timedelta or its arguments are longer than nothing."""
    if isinstance(value, timedelta):
        return value > timedelta()
    digits = value if isinstance(value, str) else str(list(value.values()))
    return re.search("[1-9]", digits) is not None


REFUSED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "default_root_dir": (
        _is_given,
        "everything of a run is in its run folder. Set run_dir and run_name",
    ),
    "precision": (
        lambda value: str(value) in ("16-true", "bf16-true", "64", "64-true"),
        "what trains is float32. Set model.dtype for frozen weights, and 32-true, bf16-mixed or "
        "16-mixed",
    ),
    "max_time": (
        lambda value: value is not None and not _has_duration(value),
        "a run that ends before its first step has no result. Give it time, or leave the key out",
    ),
    "fast_dev_run": (
        bool,
        "it writes no run checkpoint, so there would be no result. Set trainer.max_steps to 1",
    ),
    "overfit_batches": (
        bool,
        "an epoch here always serves every row. Give data.train a file of a few rows",
    ),
    "enable_checkpointing": (
        lambda value: value is False,
        "the result of a run is a run checkpoint. Leave the key out",
    ),
    "barebones": (
        bool,
        "a run without loggers and run checkpoints has no result. Leave the key out",
    ),
    "use_distributed_sampler": (
        bool,
        "the data module itself divides the rows among the processes. Leave the key out",
    ),
    "reload_dataloaders_every_n_epochs": (
        bool,
        "the order of the rows is known beforehand, so that a run can resume. Leave the key out",
    ),
    "model_registry": (
        _is_given,
        "results are not uploaded. Leave the key out",
    ),
}
"""Key -> whether a value of it is refused, and why. Lightning's Trainer gets all other keys."""


def check_trainer(settings: Mapping[str, Any], workers: int = 0) -> None:
    """Check the Trainer's keys against what a run can honor and what this machine has.

    Args:
        settings: Arguments of Lightning's Trainer.
        workers: Data workers of each process.

    Raises:
        UserError: What is wrong first, by its key.
    """
    check_trainer_keys(settings)
    check_machine(settings, workers)


def check_trainer_keys(settings: Mapping[str, Any]) -> None:
    """Raise unless a run can honor every key of the Trainer.

    Args:
        settings: Arguments of Lightning's Trainer.

    Raises:
        UserError: A key that the run would have to ignore, or numbers that mean nothing together.
    """
    for key, (is_refused, reason) in REFUSED.items():
        value = settings.get(key)
        if is_refused(value):
            raise UserError(f"trainer.{key}: {value}, but {reason}.")
    every, interval = settings.get("check_val_every_n_epoch", 1), settings.get("val_check_interval")
    if every not in (None, 1) and isinstance(interval, int):
        raise UserError(
            f"trainer.check_val_every_n_epoch: {every}, but trainer.val_check_interval {interval} "
            "counts batches across epochs. Leave one of the two out."
        )
    least, most = settings.get("min_steps"), settings.get("max_steps", -1)
    if least is not None and 0 < most < least:
        raise UserError(f"trainer.min_steps: {least}, but trainer.max_steps is {most}.")


def check_machine(settings: Mapping[str, Any], workers: int = 0) -> None:
    """Raise unless this machine can run the processes that the Trainer and the data module ask for.

    Args:
        settings: Arguments of Lightning's Trainer.
        workers: Data workers of each process.

    Raises:
        UserError: More devices, processes or workers than the machine has any use for, or a run on
            several machines that nothing has started there.
    """
    import torch

    cores = available_cores()
    devices, accelerator = settings.get("devices", 1), settings.get("accelerator", "auto")
    gpus = 0 if accelerator == "cpu" else torch.cuda.device_count()
    count = _device_count(devices)
    if count is not None and gpus and count > gpus:
        raise UserError(f"trainer.devices: {devices}, but this machine has {gpus} GPUs.")
    if count is not None and not gpus and count > PROCESSES_PER_CORE * cores:
        raise UserError(
            f"trainer.devices: {devices}, but this machine has no GPU and {cores} CPU cores, for "
            f"at most {PROCESSES_PER_CORE * cores} processes."
        )
    if workers > WORKERS_PER_CORE * cores:
        raise UserError(
            f"data.num_workers: {workers}, but this machine has {cores} CPU cores, for at most "
            f"{WORKERS_PER_CORE * cores} workers."
        )
    nodes = settings.get("num_nodes", 1)
    if nodes > 1 and not any(name in os.environ for name in ("MASTER_ADDR", "SLURM_NTASKS")):
        raise UserError(
            f"trainer.num_nodes: {nodes}, but neither torchrun nor srun has started this process, "
            "and MASTER_ADDR is not set: it would wait for the others for ever. See "
            "examples/cluster."
        )


def _device_count(devices: Any) -> int | None:
    """Count the devices that `trainer.devices` names; None if Lightning chooses.

    Raises:
        UserError: It names none.
    """
    if devices in ("auto", -1, "-1"):
        return None
    expected = "expected a number of processes from 1, or a list of GPUs such as [0, 1]"
    if isinstance(devices, str):
        names = [name.strip() for name in devices.split(",") if name.strip()]
        if not names or not all(name.isdigit() for name in names):
            raise UserError(f"trainer.devices: {devices!r}, {expected}.")
        count = int(names[0]) if len(names) == 1 else len(names)
    else:
        count = len(devices) if isinstance(devices, (list, tuple)) else devices
    if count < 1:
        raise UserError(f"trainer.devices: {devices}, {expected}.")
    return count
