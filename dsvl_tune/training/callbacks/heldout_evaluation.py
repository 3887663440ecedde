"""Before and after: scores on held-out questions, and the summary of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.machine import peak_memory_bytes
from dsvl_tune.core.progress import no_bar, tqdm
from dsvl_tune.core.storage.files import write_json
from dsvl_tune.core.types import Prompts, Texts
from dsvl_tune.evaluation.answers import Answer, gather_answers
from dsvl_tune.evaluation.generation.generate import answers_of
from dsvl_tune.evaluation.held_out_sets import SetTables, confidence, sets_figures
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.evaluation.predictions import write_answers
from dsvl_tune.evaluation.run_summary import summary_text
from dsvl_tune.evaluation.scoring import score_tables, with_scores
from dsvl_tune.evaluation.stored_answers import read_answers
from dsvl_tune.models.finetuning.adapters import save_trained
from dsvl_tune.training.callbacks.nonfinite_steps import (
    check_finite_values,
    check_finite_weights,
)
from dsvl_tune.training.checkpoints.sharded_io import read_checkpoint
from dsvl_tune.training.messages import print_above_bars
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.run.base_answers import BaseAnswers, open_base_answers


class HeldOutEvaluation(L.Callback):
    """Scores held-out questions before the first step and after the last; writes the run's result.

    `before` is measured on the base model, `after` on the best checkpoint of the run, both on
    the data module's `test` rows, which take no part in choosing that checkpoint, and on its other
    held-out sets, which show what was forgotten. The trained tensors of the best checkpoint go to
    `adapter/`, the answers to `predictions/`, the figures to `summary.json`.

    Args:
        run_folder: where all of it goes.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.before: dict[str, float] = {}
        self.tables: SetTables = {}
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
            print_above_bars("held-out questions before training")
            self.before = sets_figures(self.measure(trainer, pl_module, "before"))

    def measure(self, trainer: L.Trainer, pl_module: L.LightningModule, when: str) -> SetTables:
        """Answer the test rows and each other held-out set; the answers are written to files.

        Args:
            trainer: of the run.
            pl_module: the model that answers.
            when: "before" or "after", in the names of the files of answers.

        Returns:
            The scores of each set, by its name.
        """
        assert isinstance(pl_module, FinetuneModule)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        kept = open_base_answers(trainer, pl_module) if when == "before" else None
        tables: SetTables = {}
        for name, held_out in data.final_sets.items():
            loader = data.set_loader(name, held_out, sampled=False)
            answers = gather_answers(answer_all(pl_module, loader, f"{name}, {when}", kept))
            tables[name] = score_tables(answers, held_out.metrics)
            if trainer.is_global_zero:
                write_answers(self.answers_file(name, when), with_scores(answers, tables[name]))
        check_finite_values(
            {f"{when}/{name}": figure for name, figure in sets_figures(tables).items()}
        )
        self.tables = tables
        return tables

    def answers_file(self, name: str, when: str) -> Path:
        """Where the answers to a set are written.

        Args:
            name: of the set.
            when: "before" or "after".
        """
        return self.run_folder / "predictions" / f"{name}_{when}.jsonl"

    def tables_before(self, metrics: Mapping[str, Sequence[Metric]]) -> SetTables:
        """The scores before training, from the files of answers, but for sets whose file is gone.

        Args:
            metrics: of each set, by its name.
        """
        tables: SetTables = {}
        for name, of_set in metrics.items():
            answers = self.answers_before(name)
            if answers is not None:
                tables[name] = score_tables(answers, of_set)
        return tables

    def answers_before(self, name: str) -> list[Answer] | None:
        """The answers of the base model to a set, in order; None if their file is gone.

        Args:
            name: of the set.
        """
        try:
            lines = read_answers(self.answers_file(name, "before"))
        except UserError:
            return None
        return [line.answer for line in lines]

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
            "ended": end_reason(trainer),
        }
        if trainer.is_global_zero:
            metrics = {name: held_out.metrics for name, held_out in data.final_sets.items()}
            summary |= confidence(self.tables_before(metrics), tables)
            write_json(self.run_folder / "summary.json", summary)
            print(summary_text(summary, self.run_folder, data.all_metrics), flush=True)

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


def early_stopping_reason(trainer: L.Trainer) -> str | None:
    """Why Lightning's EarlyStopping ended the run; None if it did not."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return str(callback.stopping_reason_message).strip()
    return None


def end_reason(trainer: L.Trainer) -> str:
    """What ended the training, in words."""
    if early := early_stopping_reason(trainer):
        return f"early stopping: {early}"
    if trainer.global_step == trainer.max_steps:
        return f"trainer.max_steps ({trainer.max_steps})"
    if trainer.current_epoch == trainer.max_epochs:
        return f"trainer.max_epochs ({trainer.max_epochs})"
    return "trainer.max_time, or a callback"


@torch.no_grad()
def answer_all(
    module: FinetuneModule,
    loader: DataLoader[Prompts | Texts],
    name: str,
    kept: BaseAnswers | None,
) -> list[Answer]:
    """This process's answers, in the precision of Lightning's own steps, which callbacks lack.

    Args:
        module: the model that answers.
        loader: prompts or texts of this process.
        name: shown by the progress bar.
        kept: answers that the model is known to give; None if it has to give them all.
    """
    was_training = module.network.training
    module.network.eval()
    answers = []
    reused = 0
    hidden = module.global_rank > 0 or no_bar()
    progress = tqdm(loader, desc=name, unit="batch", leave=False, disable=hidden)
    for asked in progress:
        given, is_reused = answer_batch(module, asked, kept)
        answers += given
        reused += len(given) if is_reused else 0
    module.network.train(was_training)
    if reused and module.global_rank == 0:
        print_above_bars(f"{name}: {reused} answers of the base are those of an earlier run")
    return answers


def answer_batch(
    module: FinetuneModule, asked: Prompts | Texts, kept: BaseAnswers | None
) -> tuple[list[Answer], bool]:
    """This process's answers to one batch, and whether they are kept ones.

    Args:
        module: the model that answers.
        asked: as the data loader gave it.
        kept: as in `answer_all`.
    """
    strategy, context = module.trainer.strategy, module.trainer.precision_plugin.forward_context
    if kept is None or isinstance(asked, Texts):
        with context():
            return module.answer(strategy.batch_to_device(asked)), False
    ids = kept.read(asked)
    is_kept = strategy.reduce_boolean_decision(ids is not None)  # sharded ranks generate together
    if ids is None or not is_kept:
        with context():
            ids = module.answer_ids(strategy.batch_to_device(asked)).cpu()
        kept.keep(asked, ids)
    return answers_of(module.network, module.processor.tokenizer, asked, ids), is_kept


def peak_bytes(device: torch.device) -> Tensor:
    """Peak memory of this process.

    Returns:
        [2] int64 in bytes: resident memory, and the tensors on its GPU (0 without one).
    """
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return torch.tensor([peak_memory_bytes(), gpu], device=device)
