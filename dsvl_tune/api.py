"""The public Python API: fine-tune a model, merge the result, and ask it about images.

Example:
    Fine-tune the embedded model on generated charts, merge the result and ask it::

        import dsvl_tune
        from dsvl_tune.datamodules import ChartsDataModule

        run = dsvl_tune.fit(
            dsvl_tune.FinetuneModule("embedded", preset="lora", lr=2e-3),
            ChartsDataModule(train_charts=640),
            run_name="charts",
            max_steps=80,
        )
        print(run.before["relaxed_accuracy"], run.after["relaxed_accuracy"])
        merged = dsvl_tune.merge(run.folder)
        model = dsvl_tune.load_model(merged.folder)
        print(model.answer("What is the value of the red bar?", "chart.png"))
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.files import write_json
from dsvl_tune.core.outputs import check_output_file
from dsvl_tune.core.types import Prompts
from dsvl_tune.data.rows import Rows
from dsvl_tune.datamodules.base import ConversationDataModule
from dsvl_tune.evaluation.chat_model import ChatModel, load_model
from dsvl_tune.evaluation.run_summary import next_step_text, summary_text
from dsvl_tune.export.merge_run import MergeDtype, check_base, is_base_of, merge_run
from dsvl_tune.export.run_card import CardOptions
from dsvl_tune.export.trained_tensors import trained_folder
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.base import Layout
from dsvl_tune.families.model_parts import PartPlan
from dsvl_tune.recipe.describe import describe_run
from dsvl_tune.recipe.recipe import Recipe, read_settings
from dsvl_tune.training.callbacks.forgetting_guard import check_floor
from dsvl_tune.training.callbacks.monitor_check import check_monitor, chosen_monitor
from dsvl_tune.training.distributed.rank_agreement import (
    decided_by_first,
    die_with_first,
    is_first,
)
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.run.checks import check_rows_reach, set_up_fit
from dsvl_tune.training.run.error_messages import explained_errors, keyboard_interrupts
from dsvl_tune.training.run.folder import CONFIG, SUMMARY, place_run, write_settings
from dsvl_tune.training.run.inputs import MANIFEST, check_inputs, read_manifest, run_inputs
from dsvl_tune.training.run.lock import one_at_a_time
from dsvl_tune.training.run.manifest import manifest
from dsvl_tune.training.run.quiet import quiet_lightning
from dsvl_tune.training.run.stop_request import RunStopped, StopRequest
from dsvl_tune.training.run.threads import use_free_cores
from dsvl_tune.training.run.trainer import configuration_errors, training_trainer
from dsvl_tune.training.run.trainer_keys import TRAINER_DEFAULTS, check_trainer

__all__ = [
    "ChatModel",
    "FinetuneModule",
    "MergedCheckpoint",
    "PartPlan",
    "Run",
    "UserError",
    "fit",
    "load_model",
    "merge",
    "write_report",
]


@dataclass(frozen=True)
class Run:
    """A run that `fit` has ended.

    Attributes:
        folder: Run folder, with `summary.json`, `adapter/`, `predictions/` and `checkpoints/`.
        exit_code: 0 if the run is finished; 75 if it was stopped by a signal or its time limit, 130
            by Ctrl-C. The same call resumes a stopped run.
    """

    folder: Path
    exit_code: int = 0

    @property
    def finished(self) -> bool:
        """Whether the run has trained all its steps and evaluated the result."""
        return self.exit_code == 0

    @property
    def adapter(self) -> Path:
        """Folder of the trained adapters and tensors of the best run checkpoint."""
        return self.folder / "adapter"

    @property
    def summary(self) -> dict[str, Any]:
        """Content of `summary.json`.

        Raises:
            FileNotFoundError: The run is not finished.
        """
        text = (self.folder / SUMMARY).read_text(encoding="utf-8")
        summary: dict[str, Any] = json.loads(text)
        return summary

    @property
    def before(self) -> dict[str, float]:
        """Metrics on the held-out test rows before training, by name."""
        metrics: dict[str, float] = self.summary["before"]
        return metrics

    @property
    def after(self) -> dict[str, float]:
        """Metrics on the held-out test rows after training, by name."""
        metrics: dict[str, float] = self.summary["after"]
        return metrics


def fit(
    model: FinetuneModule,
    data: ConversationDataModule,
    *,
    run_dir: str | Path = "runs",
    run_name: str = "fit",
    monitor: str | None = None,
    keep_best: int = 1,
    floor: Mapping[str, float] | None = None,
    resume: Literal["auto", "never"] = "auto",
    checkpoint_every_steps: int | None = None,
    time_limit_s: float | None = None,
    ckpt_path: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **trainer: Any,
) -> Run:
    """Fine-tune a model and write a run folder; the command `dsvl-tune fit` calls this function.

    The run prints its plan (what is trained), checks after the first step that exactly those
    tensors changed, answers held-out questions before and after training, keeps the best and the
    last run checkpoint, and can be resumed: the same call resumes an unfinished run with the same
    name and settings. `data.seed` is the seed of the run.

    Args:
        model: A new model; it is built inside.
        data: Training, validation and test rows, for the same base checkpoint.
        run_dir: Folder of all run folders.
        run_name: Name of the run; its folder is `run_dir/run_name`, or `run_dir/run_name-2`, ...
        monitor: Logged name that selects the best run checkpoint, e.g. "val/loss"; "last" keeps the
            final step; None takes the first metric of `data`.
        keep_best: Number of best run checkpoints to keep.
        floor: Figures of held-out sets that a best run checkpoint must keep, by logged name, e.g.
            `{"val/scenes/relaxed_accuracy": 2}`: at most so much worse than the base model, in
            points of a figure in percent, else in its own unit.
        resume: "auto" resumes an unfinished run; "never" always starts a new one.
        checkpoint_every_steps: Optimizer steps between saves of the last run checkpoint, besides
            those after validations.
        time_limit_s: Seconds after which the run saves and stops.
        ckpt_path: Run checkpoint to start from; "last" resumes the newest run of this name even if
            its settings differ.
        settings: Full settings to write as `config.yaml`; None derives them from the arguments.
        **trainer: Arguments of Lightning's Trainer, e.g. `max_steps=100`.

    Returns:
        The run, finished or stopped.

    Raises:
        UserError: Invalid data, settings or environment; the message says what to do.
    """
    options = {
        "run_dir": str(run_dir),
        "run_name": run_name,
        "monitor": monitor,
        "keep_best": keep_best,
        "floor": None if floor is None else dict(floor),
        "resume": resume,
        "checkpoint_every_steps": checkpoint_every_steps,
        "time_limit_s": time_limit_s,
    }
    _check_pair(model, data)
    trainer = {**TRAINER_DEFAULTS, **trainer}
    check_trainer(trainer, data.num_workers)
    if settings is None:
        settings = describe_run(model, data, trainer, options)
    model.check_arguments()
    monitor = chosen_monitor(monitor, data.metrics)
    L.seed_everything(data.seed, workers=True, verbose=False)
    die_with_first()
    stop = StopRequest(time_limit_s)
    folder, checkpoint = _place(Path(run_dir) / run_name, ckpt_path, resume, settings)
    if checkpoint is None and (folder / SUMMARY).is_file():
        _print_finished(folder, data)
        return Run(folder)
    with quiet_lightning(), keyboard_interrupts():
        lightning_trainer = training_trainer(
            trainer,
            folder,
            stop,
            monitor=monitor,
            metrics=data.all_metrics,
            keep_best=keep_best,
            floor=floor or {},
            checkpoint_every_steps=checkpoint_every_steps,
            recipe=settings,
        )
        try:
            use_free_cores(lightning_trainer.num_devices)
            with (
                stop,
                one_at_a_time(folder),
                configuration_errors(),
                explained_errors(lightning_trainer, folder),
            ):
                _set_up(model, data)
                if not trainer.get("callbacks"):  # which may log names that are not known here
                    check_monitor(monitor, data)
                check_floor(floor or {}, monitor, data)
                inputs = _inputs(model, data, trainer)
                if checkpoint is not None and ckpt_path is None and is_first():
                    check_inputs(folder, inputs)
                _write_description(folder, settings, model, inputs)
                lightning_trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
                _write_run_report(folder, data)
                if is_first():
                    print(next_step_text(folder), flush=True)
        except RunStopped as stopped:
            _print_stopped(lightning_trainer.global_step, folder)
            return Run(folder, stopped.exit_code)
    return Run(folder, exit_code=0)


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


def write_report(
    runs: Sequence[str | Path], out: str | Path | None = None, *, images: bool = True
) -> Path:
    """Write a page about a finished run, or about several runs side by side.

    The plots are also written as PNG files, into a folder next to the page.

    Args:
        runs: Folders of finished runs, at least one.
        out: The page to write; None takes `report.html` in the folder of a single run, in the
            working folder for several.
        images: Whether held-out questions are shown with their images, which are read again from
            the data of the run.

    Returns:
        The page.

    Raises:
        UserError: A folder holds no finished run, the data of the run is gone, or `out` exists and
            is no such page.
    """
    # Imported here because it draws by matplotlib, which training does not need.
    from dsvl_tune.report.run_record import read_run
    from dsvl_tune.report.write_page import HeldOutRows, is_report, write_page

    records = [read_run(Path(run)) for run in runs]
    if not records:
        raise UserError("report: no run was given. Give the folder of a run (runs/NAME).")
    single = records[0].folder if len(records) == 1 else Path()
    page = Path(out) if out is not None else single / "report.html"
    check_output_file(page, "--out", is_report)
    rows: HeldOutRows = {}
    if images:
        data = Recipe.load(records[0].folder / CONFIG).data
        data.setup("test")
        rows = _held_out_rows(data)
    write_page(records, page, rows)
    return page


def _held_out_rows(data: ConversationDataModule) -> dict[str, Rows]:
    """Rows of the sets that are answered before and after training, by name."""
    return {name: held_out.rows for name, held_out in data.final_sets.items()}


def held_out_prompts(data: ConversationDataModule) -> Prompts:
    """Encode the first test questions of a data module, as many as it answers at a time.

    Args:
        data: A data module that is not set up yet.
    """
    data.setup("test")
    prompts: Prompts = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    return prompts


def _check_pair(model: FinetuneModule, data: ConversationDataModule) -> None:
    """Raise unless the model is new and the data module is for the same base checkpoint."""
    if model.model is not None:
        raise UserError("fit: this model was built before. Give a new FinetuneModule.")
    if data.checkpoint != model.hparams["checkpoint"]:
        raise UserError(
            f"fit: the data module is for checkpoint {data.checkpoint!r}, the model for "
            f"{model.hparams['checkpoint']!r}. Give both the same checkpoint."
        )


def _place(
    wanted: Path,
    ckpt_path: str | Path | None,
    resume: Literal["auto", "never"],
    settings: Mapping[str, Any],
) -> tuple[Path, Path | None]:
    """Decide which folder the run is in and which run checkpoint it resumes, alike on all ranks.

    Args:
        wanted: Folder of a new run of this name.
        ckpt_path: As in `fit`.
        resume: As in `fit`.
        settings: Full settings of the run.

    Raises:
        UserError: The run checkpoint does not exist.
    """
    folder, checkpoint = decided_by_first(
        lambda: place_run(
            wanted,
            ckpt_path=None if ckpt_path is None else str(ckpt_path),
            resume=resume,
            settings=settings,
            read_settings=read_settings,
        )
    )
    if checkpoint is not None and not checkpoint.exists():
        raise UserError(f"--ckpt_path {checkpoint}: no such file. Give a run checkpoint, or last.")
    return folder, checkpoint


def _set_up(model: FinetuneModule, data: ConversationDataModule) -> None:
    """Read the rows, and check that what the model trains gets a gradient from them."""
    set_up_fit(data)
    plan = model.adaptation.requested_plan(model.base.family)
    check_rows_reach(plan, data.rows("train"))


def _inputs(
    model: FinetuneModule, data: ConversationDataModule, trainer: Mapping[str, Any]
) -> dict[str, str]:
    """Hash what the run depends on; {} on other ranks, which write no manifest."""
    if not is_first():
        return {}
    callbacks = trainer.get("callbacks") or []
    others = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    factories = [factory for factory in (model.optimizer, model.lr_scheduler) if factory]
    made = [getattr(factory, "func", factory) for factory in factories]
    named = [model, model.objective, *data.all_metrics, *others, *made]
    return run_inputs(model.base, data, named)


def _write_description(
    folder: Path,
    settings: Mapping[str, Any],
    model: FinetuneModule,
    inputs: Mapping[str, str],
) -> None:
    """Write `config.yaml`, which repeats the run, and `manifest.json`: versions and hashes."""
    if not is_first():
        return
    (folder / SUMMARY).unlink(missing_ok=True)  # only a finished run has one
    run_id = read_manifest(folder).get("run") or uuid.uuid4().hex
    write_settings(folder, settings)
    content = manifest(model.base, model.quantization, inputs, run_id)
    write_json(folder / MANIFEST, content)


def _print_finished(folder: Path, data: ConversationDataModule) -> None:
    """Print the result of a run whose process was killed just after it had written it."""
    if is_first():
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        text = summary_text(summary, folder, data.all_metrics)
        print(f"{folder} is finished\n{text}\n{next_step_text(folder)}", flush=True)


def _write_run_report(folder: Path, data: ConversationDataModule) -> None:
    """Write `report.html`. The run is finished: what fails here does not make it fail."""
    if not is_first():
        return
    from dsvl_tune.report.run_record import read_run
    from dsvl_tune.report.write_page import write_page

    try:
        write_page([read_run(folder)], folder / "report.html", _held_out_rows(data))
        print(f"report: {folder / 'report.html'}", flush=True)
    except UserError as error:
        print(f"no report was written: {error}", flush=True)


def _print_stopped(step: int, folder: Path) -> None:
    """Say where the run stopped and how to resume it."""
    if is_first():
        print(f"stopped at step {step}; start it again to resume\nrun folder: {folder}", flush=True)
