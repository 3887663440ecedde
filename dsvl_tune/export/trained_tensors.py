"""What a run trained, as a folder of adapters and full tensors: its result or any checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.locks import lock_folder
from dsvl_tune.models.build import adapted_model
from dsvl_tune.models.finetuning.adapters import save_trained

if TYPE_CHECKING:
    from dsvl_tune.training.module import FinetuneModule

PREFIX = ".adapter-"
"""Of the hidden folder in a run that holds the trained tensors of one of its checkpoints."""


@contextmanager
def trained_folder(
    run: Path, checkpoint: str | None, load_module: Callable[[], FinetuneModule]
) -> Iterator[Path]:
    """The run's `adapter/`, or one made of a run checkpoint for as long as the block lasts.

    It is made tensor by tensor.

    Args:
        run: its folder.
        checkpoint: "best", "last" or the path of one; None takes the run's result.
        load_module: makes the run's module, not built yet, by its recipe.

    Raises:
        UserError: the run keeps no such checkpoint, or its recipe trains other tensors.
    """
    remove_abandoned(run)
    if checkpoint is None:
        yield run / "adapter"
        return
    # These bring lightning, which merging a run's result does not need.
    from dsvl_tune.training.checkpoints.sharded_io import trained_tensors
    from dsvl_tune.training.run.folder import find_checkpoint

    path = find_checkpoint(run, checkpoint) if checkpoint in ("best", "last") else Path(checkpoint)
    if not path.exists():
        raise UserError(
            f"--checkpoint {checkpoint}: no such checkpoint. Give best, last or a path."
        )
    module = load_module()
    adaptation = replace(module.adaptation, quantization=None)
    network, _ = adapted_model(module.base, adaptation, "empty")
    names, read = trained_tensors(path)
    planned = {
        f"model.{name}" for name, parameter in network.named_parameters() if parameter.requires_grad
    }
    if strange := sorted(planned ^ names):
        raise UserError(
            f"{path}: it does not hold what {run}/config.yaml trains "
            f"(differing, e.g.: {strange[0]})."
        )
    with TemporaryDirectory(dir=run, prefix=PREFIX) as name, folder_lock(Path(name)):
        save_trained(network, Path(name), module.base, lambda parameter: read(f"model.{parameter}"))
        yield Path(name)


@contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Hold a lock on a folder; the kernel drops it when the process ends, however it ends.

    Args:
        folder: that exists.

    Yields:
        Whether this process holds the lock: not while another one does, nor where the file system
        has no locks.
    """
    try:
        handle = lock_folder(folder)
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(handle)


def remove_abandoned(run: Path) -> None:
    """Remove what killed attempts to merge a checkpoint of a run have left in its folder."""
    for folder in run.glob(f"{PREFIX}*"):
        # Whoever still works in there holds the lock.
        with suppress(FileNotFoundError), folder_lock(folder) as held:
            if held:
                shutil.rmtree(folder)
