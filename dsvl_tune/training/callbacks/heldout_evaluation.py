"""Before and after: scores on held-out questions, and the summary of a run."""

from __future__ import annotations

import resource
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.files import write_json
from dsvl_tune.core.text_table import format_table
from dsvl_tune.core.types import Prompts
from dsvl_tune.data.rows import Rows
from dsvl_tune.evaluation.answers import Answer, gather_answers
from dsvl_tune.evaluation.figures_table import (
    change_text,
    figure_text,
    is_percent,
    small_set_text,
)
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.evaluation.predictions import write_answers
from dsvl_tune.evaluation.scoring import ScoreTable, score_tables, set_figures, with_scores
from dsvl_tune.evaluation.statistics import Change, changes, intervals
from dsvl_tune.evaluation.stored_answers import read_answers
from dsvl_tune.models.finetuning.adapters import save_trained
from dsvl_tune.training.callbacks.nonfinite_steps import (
    check_finite_values,
    check_finite_weights,
)
from dsvl_tune.training.checkpoints.sharded_io import read_checkpoint
from dsvl_tune.training.module import FinetuneModule

SetTables = dict[str, list[ScoreTable]]
"""Scores of each held-out set, by its name."""


class HeldOutEvaluation(L.Callback):
    """Scores held-out questions before the first step and after the last; writes the run's result.

    `before` is measured on the base model, `after` on the best checkpoint of the run, both on
    the data module's `test` rows, which take no part in choosing that checkpoint. Retention sets
    (other domains) show what was forgotten. The trained tensors of the best checkpoint go to
    `adapter/`, the answers to `predictions/`, the figures to `summary.json`.

    Args:
        run_folder: where all of it goes.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.before: dict[str, float] = {}
        self.wall_s = 0.0
        self.since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before, "wall_s": self._elapsed_s()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["before"]
        self.wall_s = state_dict["wall_s"]

    def _elapsed_s(self) -> float:
        """Seconds of training, also before a stop."""
        return self.wall_s + time.monotonic() - self.since

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.run_folder = trainer.strategy.broadcast(self.run_folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.before:
            rank_zero_only(print)("held-out questions before training", flush=True)
            self.before = sets_figures(self.measure(trainer, pl_module, "before"))

    def measure(self, trainer: L.Trainer, pl_module: L.LightningModule, when: str) -> SetTables:
        """Answer the test rows and each retention set; the answers are written to files.

        Args:
            trainer: of the run.
            pl_module: the model that answers.
            when: "before" or "after", in the names of the files of answers.

        Returns:
            The scores of each set, by its name.
        """
        assert isinstance(pl_module, FinetuneModule)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        tables: SetTables = {}
        for name, rows in held_out_sets(data).items():
            own = answer_all(pl_module, data.prompt_loader(rows), f"{name}, {when}")
            answers = gather_answers(own)
            tables[name] = score_tables(answers, data.metrics)
            if trainer.is_global_zero:
                write_answers(self.answers_file(name, when), with_scores(answers, tables[name]))
        check_finite_values(
            {f"{when}/{name}": figure for name, figure in sets_figures(tables).items()}
        )
        return tables

    def answers_file(self, name: str, when: str) -> Path:
        """Where the answers to a set are written.

        Args:
            name: of the set.
            when: "before" or "after".
        """
        return self.run_folder / "predictions" / f"{name}_{when}.jsonl"

    def tables_before(self, metrics: Sequence[Metric]) -> SetTables:
        """The scores before training, from the files of answers; {} where one is gone.

        Args:
            metrics: of the data module.
        """
        try:
            return {
                path.name.removesuffix("_before.jsonl"): score_tables(
                    [line.answer for line in read_answers(path)], metrics
                )
                for path in (self.run_folder / "predictions").glob("*_before.jsonl")
            }
        except UserError:
            return {}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, FinetuneModule)
        best = self.load_best(trainer, pl_module)
        check_finite_weights(pl_module)
        pl_module.nonfinite_steps.check_trained(trainer.global_step)
        save_trained(pl_module.network, self.run_folder / "adapter", pl_module.base)
        tables = self.measure(trainer, pl_module, "after")
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        peak_rss, peak_gpu = trainer.strategy.reduce(
            peak_bytes(pl_module.device), reduce_op="max"
        ).tolist()
        summary = {
            "before": self.before,
            "after": sets_figures(tables),
            "majority_baseline": data.majority_baseline(),
            "wall_s": round(self._elapsed_s(), 1),
            "peak_rss_bytes": peak_rss,
            "peak_gpu_bytes": peak_gpu,
            "steps": trainer.global_step,
            "trainable_parameters": sum(
                parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad
            ),
            "best_checkpoint": best,
            "stopped_early": early_stopping_reason(trainer),
        }
        if trainer.is_global_zero:
            summary |= confidence(self.tables_before(data.metrics), tables)
            write_json(self.run_folder / "summary.json", summary)
            print(summary_text(summary, self.run_folder, data.metrics), flush=True)

    def load_best(self, trainer: L.Trainer, module: FinetuneModule) -> str:
        """Load the best checkpoint's tensors into the model.

        Returns:
            Its path below the run folder; "last" where nothing was monitored, so that the
            weights of the last step stay.
        """
        best = ""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor:
                best = callback.best_model_path
        if not best:
            return "last"
        state = read_checkpoint(Path(best), dict(module.named_parameters()), optimizer=False)
        module.load_state_dict(state["state_dict"], strict=False)
        return str(Path(best).relative_to(self.run_folder.resolve()))


def held_out_sets(data: Any) -> dict[str, Rows]:
    """The rows that are answered before and after training: "test", then the retention sets.

    Args:
        data: the data module, set up.
    """
    return {"test": data.rows("test"), **data.retention_sets()}


def set_prefix(name: str) -> str:
    """What stands before the names of a set's figures: nothing for the test rows."""
    return "" if name == "test" else f"{name}/"


def sets_figures(tables: SetTables) -> dict[str, float]:
    """The figures of each set, under its prefix.

    Args:
        tables: scores of each set, by its name.
    """
    return {
        set_prefix(name) + figure: value
        for name, of_set in tables.items()
        for figure, value in set_figures(of_set).items()
    }


def confidence(before: SetTables, after: SetTables) -> dict[str, Any]:
    """How far the figures can be trusted, for `summary.json`.

    Args:
        before: scores of each set, by its name; {} if they are not known.
        after: scores of the same sets.

    Returns:
        `questions`: scored questions of each set; `intervals` of the figures afterwards; `changes`
        of figures, with intervals of paired draws.
    """
    questions = {}
    found: dict[str, Any] = {}
    changed: dict[str, Any] = {}
    for name, tables in after.items():
        prefix = set_prefix(name)
        questions[name] = max((len(table.answers) for table in tables), default=0)
        for figure, interval in intervals(tables).items():
            found[prefix + figure] = list(interval)
        for figure, change in changes(before.get(name, []), tables).items():
            changed[prefix + figure] = change._asdict()
    return {"questions": questions, "intervals": found, "changes": changed}


def early_stopping_reason(trainer: L.Trainer) -> str | None:
    """Why Lightning's EarlyStopping ended the run; None if it did not."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return str(callback.stopping_reason_message).strip()
    return None


@torch.no_grad()
def answer_all(module: FinetuneModule, loader: DataLoader[Prompts], name: str) -> list[Answer]:
    """This process's answers, in the precision of Lightning's own steps, which callbacks lack.

    Args:
        module: the model that answers.
        loader: prompts of this process.
        name: shown by the progress bar.
    """
    was_training = module.network.training
    module.network.eval()
    answers = []
    progress = tqdm(loader, desc=name, unit="batch", leave=False, disable=module.global_rank > 0)
    for prompts in progress:
        with module.trainer.precision_plugin.forward_context():
            answers += module.answer(module.trainer.strategy.batch_to_device(prompts))
    module.network.train(was_training)
    return answers


def peak_bytes(device: torch.device) -> Tensor:
    """Peak memory of this process.

    Returns:
        [2] int64 in bytes: resident memory, and the tensors on its GPU (0 without one).
    """
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return torch.tensor([rss, gpu], device=device)


def summary_text(summary: dict[str, Any], run_folder: Path, metrics: Sequence[Metric]) -> str:
    """The table and lines that a run prints at its end.

    Args:
        summary: content of `summary.json`.
        run_folder: the run's.
        metrics: of the data module.
    """
    rows = []
    for name in summary["after"]:
        if name.count("/") > 1:
            continue  # the question types of a retention set are in summary.json
        set_name, _, figure = name.partition("/")
        percent = is_percent(figure if set_name in summary.get("questions", {}) else name, metrics)
        columns = [summary[column].get(name) for column in ("before", "after", "majority_baseline")]
        before, after, majority = (figure_text(one, percent=percent) for one in columns)
        change = summary.get("changes", {}).get(name)
        changed = change_text(Change(**change) if change else None, percent=percent)
        rows.append([name, before, after, changed, majority])
    table = format_table(["metric", "before", "after", "change", "majority baseline"], rows)
    stopped_early = summary.get("stopped_early")
    minutes, seconds = divmod(round(summary["wall_s"]), 60)
    memory = f"{summary['peak_rss_bytes'] / 2**30:.2f} GiB"
    if summary["peak_gpu_bytes"]:
        memory += f", on the GPU {summary['peak_gpu_bytes'] / 2**30:.2f} GiB"
    lines = [
        f"\nheld-out questions\n{table}\n",
        *small_sets(summary.get("questions", {})),
        *forgotten(summary, metrics),
        f"steps: {summary['steps']}, trained parameters: {summary['trainable_parameters']:,}",
        f"time: {minutes} min {seconds} s, peak memory: {memory}",
        f"best checkpoint: {summary['best_checkpoint']}",
        *([f"stopped early: {stopped_early}"] if stopped_early else []),
        f"run folder: {run_folder}",
        f"next: dsvl-tune merge {shlex.quote(str(run_folder))}",
    ]
    return "\n".join(lines)


def forgotten(summary: dict[str, Any], metrics: Sequence[Metric]) -> list[str]:
    """A warning for each figure of a retention set that fell, beyond what chance explains.

    Args:
        summary: content of `summary.json`.
        metrics: of the data module.
    """
    lines = []
    for name, change in summary.get("changes", {}).items():
        set_name, _, figure = name.partition("/")
        for metric in metrics:
            if set_name == "test" or figure != metric.name:
                continue
            is_worse = change["high"] < 0 if metric.higher_is_better else change["low"] > 0
            if is_worse:
                text = change_text(Change(**change), percent=metric.percent)
                lines.append(
                    f"warning: {set_name} got worse ({text}): the model forgets. Mix rows of its "
                    "kind into the training data (MixtureDataModule), or train less."
                )
    return lines


def small_sets(questions: Mapping[str, int]) -> list[str]:
    """A line for each set that is small.

    Args:
        questions: scored questions of each set.
    """
    notes = {name: small_set_text(count) for name, count in questions.items() if count}
    return [f"{name}: {note}" for name, note in notes.items() if note]
