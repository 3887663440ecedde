"""Before and after: scores on held-out questions, and the summary of a run."""

from __future__ import annotations

import resource
import shlex
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dsvl_tune.core.files import write_json
from dsvl_tune.core.text_table import format_table
from dsvl_tune.core.types import Prompts
from dsvl_tune.data.rows import Rows
from dsvl_tune.evaluation.answers import Answer, gather_answers
from dsvl_tune.evaluation.predictions import write_answers
from dsvl_tune.evaluation.scoring import aggregate_scores, score_answers
from dsvl_tune.models.finetuning.adapters import save_trained
from dsvl_tune.training.callbacks.nonfinite_steps import (
    check_finite_values,
    check_finite_weights,
)
from dsvl_tune.training.checkpoints.sharded_io import read_checkpoint
from dsvl_tune.training.module import FinetuneModule


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
            self.before = self.measure(trainer, pl_module, "before")

    def measure(
        self, trainer: L.Trainer, pl_module: L.LightningModule, when: str
    ) -> dict[str, float]:
        """Figures of the test rows, and of each retention set under its name.

        Args:
            trainer: of the run.
            pl_module: the model that answers.
            when: "before" or "after", in the names of the files of answers.
        """
        assert isinstance(pl_module, FinetuneModule)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        figures: dict[str, float] = {}
        for name, rows in held_out_sets(data).items():
            own = answer_all(pl_module, data.prompt_loader(rows), f"{name}, {when}")
            answers = score_answers(gather_answers(own), data.metrics)
            if trainer.is_global_zero:
                write_answers(self.run_folder / "predictions" / f"{name}_{when}.jsonl", answers)
            prefix = "" if name == "test" else f"{name}/"
            for metric, figure in aggregate_scores(answers, data.metrics).items():
                figures[prefix + metric] = figure
        check_finite_values({f"{when}/{name}": figure for name, figure in figures.items()})
        return figures

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, FinetuneModule)
        best = self.load_best(trainer, pl_module)
        check_finite_weights(pl_module)
        pl_module.nonfinite_steps.check_trained(trainer.global_step)
        save_trained(pl_module.network, self.run_folder / "adapter", pl_module.base)
        after = self.measure(trainer, pl_module, "after")
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        peak_rss, peak_gpu = trainer.strategy.reduce(
            peak_bytes(pl_module.device), reduce_op="max"
        ).tolist()
        summary = {
            "before": self.before,
            "after": after,
            "majority_baseline": data.majority_baseline(),
            "wall_s": round(self._elapsed_s(), 1),
            "peak_rss_bytes": peak_rss,
            "peak_gpu_bytes": peak_gpu,
            "steps": trainer.global_step,
            "trainable_parameters": sum(
                parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad
            ),
            "best_checkpoint": best,
        }
        if trainer.is_global_zero:
            write_json(self.run_folder / "summary.json", summary)
            print(summary_text(summary, self.run_folder), flush=True)

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


def summary_text(summary: dict[str, Any], run_folder: Path) -> str:
    """The table and lines that a run prints at its end.

    Args:
        summary: content of `summary.json`.
        run_folder: the run's.
    """
    columns = [summary[column] for column in ("before", "after", "majority_baseline")]
    rows = []
    for metric in summary["after"]:
        if metric.count("/") > 1:
            continue  # the question types of a retention set are in summary.json
        figures = [column.get(metric) for column in columns]
        rows.append([metric, *(figure_text(figure) for figure in figures)])
    table = format_table(["metric", "before", "after", "majority baseline"], rows)
    minutes, seconds = divmod(round(summary["wall_s"]), 60)
    memory = f"{summary['peak_rss_bytes'] / 2**30:.2f} GiB"
    if summary["peak_gpu_bytes"]:
        memory += f", on the GPU {summary['peak_gpu_bytes'] / 2**30:.2f} GiB"
    lines = [
        f"\nheld-out questions\n{table}\n",
        f"steps: {summary['steps']}, trained parameters: {summary['trainable_parameters']:,}",
        f"time: {minutes} min {seconds} s, peak memory: {memory}",
        f"best checkpoint: {summary['best_checkpoint']}",
        f"run folder: {run_folder}",
        f"next: dsvl-tune merge {shlex.quote(str(run_folder))}",
    ]
    return "\n".join(lines)


def figure_text(figure: float | None) -> str:
    """A figure in percent; "-" where there is none."""
    return "-" if figure is None else f"{100 * figure:.1f} %"
