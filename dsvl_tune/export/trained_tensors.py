"""What a run trained, as a folder of adapters and full tensors: its result or any checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from dsvl_tune.core.errors import UserError
from dsvl_tune.models.build import adapted_model
from dsvl_tune.models.finetuning.adapters import save_trained

if TYPE_CHECKING:
    from dsvl_tune.training.module import FinetuneModule


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
    with TemporaryDirectory(dir=run, prefix=".adapter-") as folder:
        save_trained(network, Path(folder), lambda name: read(f"model.{name}"))
        yield Path(folder)
