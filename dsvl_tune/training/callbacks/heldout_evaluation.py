"""Before and after: answers on held-out questions, and the summary of a run."""

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

from dsvl_tune.core.files import write_json, write_json_lines
from dsvl_tune.core.text_table import format_table
from dsvl_tune.core.types import Prompts
from dsvl_tune.evaluation.generate import Answer, score
from dsvl_tune.evaluation.predictions import gather_answers
from dsvl_tune.models.finetuning.adapters import save_trained
from dsvl_tune.training.checkpoints.sharded_io import read_checkpoint
from dsvl_tune.training.module import FinetuneModule


@torch.no_grad()
def answer_all(module: FinetuneModule, loader: DataLoader[Prompts], name: str) -> list[Answer]:
    """One record a question, in the precision that Lightning gives its own steps and not its callbacks."""
    was_training = module.network.training
    module.network.eval()
    answers = []
    for prompts in tqdm(
        loader, desc=name, unit="batch", leave=False, disable=module.global_rank > 0
    ):
        with module.trainer.precision_plugin.forward_context():
            answers += module.answer(module.trainer.strategy.batch_to_device(prompts))
    module.network.train(was_training)
    return answers


class HeldOutReport(L.Callback):
    """Scores held-out questions before the first step and after the last, and writes the run's result.

    `before` is measured on the base, `after` on the best checkpoint of the run, both on the data module's `test` rows,
    which take no part in choosing that checkpoint. Probes (other domains) show what was forgotten. The trained
    tensors of the best checkpoint go to `adapter/`, the answers to `predictions/`, the figures to `summary.json`.

    Args:
        run_folder: where all of it goes.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.before: dict[str, float] = {}
        self.wall_s = 0.0
        self.since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before, "wall_s": self.wall_s + time.monotonic() - self.since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before, self.wall_s = state_dict["before"], state_dict["wall_s"]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.run_folder = trainer.strategy.broadcast(self.run_folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.before:
            rank_zero_only(print)("held-out questions before training", flush=True)
            self.before = self.measure(trainer, pl_module, "before")

    def measure(
        self, trainer: L.Trainer, pl_module: L.LightningModule, when: str
    ) -> dict[str, float]:
        """Metrics on the test rows, and on each retention_set under its name; answers are kept as JSON lines."""
        assert isinstance(pl_module, FinetuneModule)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        metrics: dict[str, float] = {}
        for name, rows in {"test": data.rows("test"), **data.retention_sets()}.items():
            own = answer_all(pl_module, data.prompt_loader(rows), f"{name}, {when}")
            answers = gather_answers(own, rows)
            if trainer.is_global_zero:
                path = self.run_folder / "predictions" / f"{name}_{when}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json_lines(path, answers)
            prefix = "" if name == "test" else f"{name}/"
            metrics.update({f"{prefix}{metric}": value for metric, value in score(answers).items()})
        return metrics

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, FinetuneModule)
        best = self.load_best(trainer, pl_module)
        save_trained(pl_module.network, self.run_folder / "adapter")
        after = self.measure(trainer, pl_module, "after")
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        trained = [p for p in pl_module.parameters() if p.requires_grad]
        peak_rss, peak_gpu = trainer.strategy.reduce(
            peak_bytes(pl_module.device), reduce_op="max"
        ).tolist()
        summary = {
            "before": self.before,
            "after": after,
            "floor": data.floor(),
            "wall_s": round(self.wall_s + time.monotonic() - self.since, 1),
            "peak_rss_bytes": peak_rss,
            "peak_gpu_bytes": peak_gpu,
            "steps": trainer.global_step,
            "trainable_parameters": sum(p.numel() for p in trained),
            "best_checkpoint": best,
        }
        if trainer.is_global_zero:
            write_json(self.run_folder / "summary.json", summary)
            print(summary_text(summary, self.run_folder), flush=True)

    def load_best(self, trainer: L.Trainer, module: FinetuneModule) -> str:
        """Put the best checkpoint's tensors into the model; the last step's stay where no metric has picked one."""
        keepers = [
            callback
            for callback in trainer.checkpoint_callbacks
            if isinstance(callback, ModelCheckpoint)
        ]
        best = next((keeper.best_model_path for keeper in keepers if keeper.monitor), "")
        if not best:
            return "last"
        state = read_checkpoint(Path(best), dict(module.named_parameters()), optimizer=False)
        module.load_state_dict(state["state_dict"], strict=False)
        return str(Path(best).relative_to(self.run_folder.resolve()))


def peak_bytes(device: torch.device) -> Tensor:
    """[2] int64: this process's highest resident memory, and that of the tensors on its GPU, 0 without one."""
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return torch.tensor(
        [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, gpu], device=device
    )


def summary_text(summary: dict[str, Any], run_folder: Path) -> str:
    """What a run says at its end."""
    rows = []
    for metric, after in summary["after"].items():
        if metric.count("/") > 1:
            continue  # the types of a retention_set are in summary.json
        floor = summary["floor"].get(metric)
        cells = [summary["before"].get(metric), after, floor]
        rows.append([metric, *("-" if cell is None else f"{100 * cell:.1f} %" for cell in cells)])
    gpu = (
        f", on the GPU {summary['peak_gpu_bytes'] / 2**30:.2f} GiB"
        if summary["peak_gpu_bytes"]
        else ""
    )
    minutes, seconds = divmod(round(summary["wall_s"]), 60)
    return (
        f"\nheld-out questions\n{format_table(['metric', 'before', 'after', 'floor'], rows)}\n\n"
        f"steps: {summary['steps']}, trained parameters: {summary['trainable_parameters']:,}\n"
        f"time: {minutes} min {seconds} s, peak memory: {summary['peak_rss_bytes'] / 2**30:.2f} GiB{gpu}\n"
        f"best checkpoint: {summary['best_checkpoint']}\n"
        f"run folder: {run_folder}\n"
        f"next: dsvl-tune merge {shlex.quote(str(run_folder))}"
    )
