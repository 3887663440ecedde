"""Merge what a run trained into its base checkpoint: what the command `merge` calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Layout
from dsvl_tune.core.types import Prompts
from dsvl_tune.datamodules.base import ConversationDataModule
from dsvl_tune.export.merge_run import MergeDtype, check_base, is_base_of, merge_run
from dsvl_tune.export.run_card import CardOptions
from dsvl_tune.export.trained_tensors import trained_folder
from dsvl_tune.families import open_checkpoint
from dsvl_tune.recipe.recipe import Recipe
from dsvl_tune.training.run.folder import CONFIG


@dataclass(frozen=True)
class MergedCheckpoint:
    """A checkpoint that `merge` has written.

    Attributes:
        folder: The checkpoint, complete and verified.
        report: Content of its `merge_report.json`: which tensors changed, and how it was verified.
    """

    folder: Path
    report: dict[str, Any]


def merge(
    run: str | Path,
    out: str | Path | None = None,
    *,
    base: str | None = None,
    layout: Layout = "transformers",
    dtype: MergeDtype = "base",
    rows: int = 16,
    checkpoint: str | None = None,
    samples: int = 4,
    paths: bool = False,
) -> MergedCheckpoint:
    """Merge what a run trained into its base checkpoint, and verify the result.

    The written checkpoint loads in plain transformers (or in the original code). It must answer
    held-out questions like base + adapter, and every tensor that was not trained must equal the
    base's, bit for bit; otherwise nothing is written.

    Args:
        run: Folder of a run, e.g. `Run.folder`.
        out: Folder to write, which must not exist yet; None takes `merged/` in the run folder.
        base: Base checkpoint; None takes the one that the run was trained from.
        layout: "transformers" or "original".
        dtype: Of the written weights; "base" keeps the base's own.
        rows: Number of held-out rows to verify with; 0 skips loading and answering.
        checkpoint: Run checkpoint to merge: "best", "last" or a path; None takes the result.
        samples: Number of held-out questions with their answers that the model card shows.
        paths: Whether report and audit have whole paths of data and base, else their last parts.

    Returns:
        The merged checkpoint.

    Raises:
        UserError: `run` is no run folder, its base has changed, or the verification failed.
    """
    run = Path(run)
    if not (run / CONFIG).is_file():
        raise UserError(f"{run}: no {CONFIG}. Give the folder of a run (runs/NAME).")
    changes = {"data.init_args.eval_batch_size": rows} if rows else {}
    recipe = Recipe.load(run / CONFIG, {**changes, **({"model.checkpoint": base} if base else {})})
    base_checkpoint = open_checkpoint(recipe.config.model.checkpoint)
    if base is None:
        check_base(run, base_checkpoint)
    prompts = held_out_prompts(recipe.data) if rows else None
    out = Path(out) if out is not None else run / "merged"
    from dsvl_tune.report.plots import losses_png  # matplotlib, which training does not need

    card = CardOptions(samples, paths, losses_png(run))
    with trained_folder(run, checkpoint, lambda: recipe.model) as adapter:
        report = merge_run(
            run,
            base_checkpoint,
            adapter,
            out,
            layout=layout,
            dtype=dtype,
            prompts=prompts,
            base_is_the_runs=base is None or is_base_of(run, base_checkpoint),
            checkpoint=checkpoint,
            card=card,
        )
    return MergedCheckpoint(out, report)


def held_out_prompts(data: ConversationDataModule) -> Prompts:
    """Encode the first test questions of a data module, as many as it answers at a time.

    Args:
        data: A data module that is not set up yet.
    """
    data.setup("test")
    prompts: Prompts = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    return prompts
