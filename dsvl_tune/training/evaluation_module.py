"""Losses and answers of a model, for validation, test and predict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import Batch, Prompts, Texts
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.blanking import blank_images
from dsvl_tune.evaluation.generation.generate import answers_of, greedy_ids
from dsvl_tune.evaluation.held_out_sets import (
    SetAnswers,
    SetTables,
    confidence,
    set_prefix,
    sets_figures,
)
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.evaluation.metrics.token_scores import MOST_LOSS
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.runtime.attention_mask import answering
from dsvl_tune.models.runtime.finite_outputs import blamed_part
from dsvl_tune.models.runtime.fsdp import is_sharded
from dsvl_tune.training.callbacks.nonfinite_steps import check_finite_values
from dsvl_tune.training.distributed.blank_image import add_blank_image
from dsvl_tune.training.feature_cache import FeatureExtractor
from dsvl_tune.training.messages import print_above_bars
from dsvl_tune.training.objectives.base import Objective, Sums
from dsvl_tune.training.text_scores import score_texts


class AnsweringModule(L.LightningModule):
    """A complete model that computes losses and answers questions.

    Args:
        checkpoint: the base checkpoint: "embedded", a folder or a hub name. It is opened when it is
            first needed.
        max_new_tokens: length of the longest generated answer.
        objective: computes the loss of a batch.
    """

    def __init__(self, checkpoint: str, max_new_tokens: int, objective: Objective) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.max_new_tokens = max_new_tokens
        self.objective = objective
        self._base: Checkpoint | None = None
        self.model: PreTrainedModel | None = None
        self.feature_extractor: FeatureExtractor | None = None
        self.in_work: Batch | Prompts | None = None
        self.set_metrics: dict[str, tuple[Metric, ...]] = {}
        self.answers = SetAnswers([])
        self.tables: SetTables = {}
        self.blank: str | None = None
        self.means: dict[str, float] = {}
        self.validation_sums: list[dict[str, Tensor]] = []

    @property
    def base(self) -> Checkpoint:
        """The base checkpoint, opened."""
        if self._base is None:
            self._base = open_checkpoint(self.checkpoint)
        return self._base

    @property
    def processor(self) -> Processor:
        """The base checkpoint's processor."""
        return self.base.processor

    @property
    def network(self) -> PreTrainedModel:
        """The complete model, once `configure_model` has built it."""
        assert self.model is not None
        return self.model

    def compute(self, function: Callable[..., Any], batch: Batch | Prompts) -> Any:
        """`function(network, batch)`, on cached features where there is a feature cache.

        In a sharded model all processes gather the layers of the vision side together or not at
        all. A process whose batch has no images therefore encodes a blank one, which no slot shows,
        if another process has images.

        Args:
            function: takes the network and a batch.
            batch: as it came from the data module.
        """
        if self.feature_extractor is not None:
            precision = self.trainer.precision_plugin.forward_context()
            batch = self.feature_extractor.with_features(batch, precision)
        if not is_sharded(self.network):
            return function(self.network, batch)
        anyone_has_images = self.trainer.strategy.reduce_boolean_decision(
            bool(batch.vision_inputs), all=False
        )
        if anyone_has_images:
            batch = add_blank_image(batch, self.processor)
        return self.network.run(function, batch)

    def blamed_part(self) -> str:
        """Say which module's output is the first that is not finite on the last batch.

        Every rank of a sharded model must call this. "" if none is.
        """
        batch = self.in_work
        if not isinstance(batch, Batch):
            return ""
        return blamed_part(self.network, lambda: self.compute(self.objective, batch))

    # Validation: the objective's loss over all rows, and answers to each held-out set.

    def on_validation_epoch_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        sets = data.validation_sets
        self.set_metrics = {name: one.metrics for name, one in sets.items()}
        self.answers = SetAnswers(list(sets), data.eval_seconds)

    def validation_step(
        self, batch: Batch | Prompts | Texts, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Loss on a `Batch` of the first loader; answers, or scores of texts, on the others."""
        if dataloader_idx:
            self.answer_in_time(batch, dataloader_idx)
            return
        self.in_work = batch
        sums: Sums = self.compute(self.objective, batch)
        self.validation_sums.append({"loss": sums.table()[0], **sums.logged})

    def answer_in_time(self, batch: Any, dataloader_idx: int) -> None:
        """Answer a batch of a held-out set, unless the time of that set is over."""
        name = list(self.set_metrics)[dataloader_idx - 1]
        if self.answers.seconds is not None:
            is_over = self.trainer.strategy.reduce_boolean_decision(
                self.answers.is_out_of_time(name), all=False
            )
            if is_over:
                loaders: Any = self.trainer.val_dataloaders
                loaders[dataloader_idx].sampler.stopped = True
                return
        self.answers.add(name, self.answer(batch))

    def on_validation_epoch_end(self) -> None:
        self.log_losses()
        self.log_scores("val")

    def log_losses(self) -> None:
        """Log means over the validation rows of all processes: the loss, and those of its tokens.

        Sums are added up, never means: neither the size of a batch nor the number of processes
        counts.
        """
        if not self.validation_sums:
            return
        names = list(self.validation_sums[0])
        own = torch.stack([torch.stack([*one.values()]) for one in self.validation_sums])
        self.validation_sums.clear()
        sums = self.trainer.strategy.reduce(own.sum(0), reduce_op="sum")
        means = {
            name: total / weight
            for name, (total, weight) in zip(names, sums, strict=True)
            if weight > 0
        }
        check_finite_values({f"val/{name}": mean for name, mean in means.items()}, self.blamed_part)
        if "token_loss" in means:
            means["perplexity"] = means.pop("token_loss").clamp(max=MOST_LOSS).exp()
        self.means = {name: float(mean) for name, mean in means.items()}
        for name, mean in means.items():
            self.log(f"val/{name}", mean, prog_bar=name == "loss")

    def log_scores(self, prefix: str) -> None:
        """Log `PREFIX/METRIC` and `PREFIX/METRIC/TYPE` of the answers that all processes gave.

        The figures of a named set are `PREFIX/SET/METRIC` and so on. The ends of their 95 %
        intervals begin with `PREFIX_low/` and `PREFIX_high/`.
        """
        self.tables = self.answers.tables(self.set_metrics)
        figures = sets_figures(self.tables)
        check_finite_values({f"{prefix}/{name}": value for name, value in figures.items()})
        for name, value in figures.items():
            self.log(f"{prefix}/{name}", value, prog_bar="/" not in name)
        for name, (low, high) in confidence({}, self.tables)["intervals"].items():
            self.log(f"{prefix}_low/{name}", low)
            self.log(f"{prefix}_high/{name}", high)
        if self.answers.seconds is not None:
            self.log_answered(prefix)

    def log_answered(self, prefix: str) -> None:
        """Log how many questions of each set were answered, and say where time was over first."""
        loaders: Any = self.trainer.val_dataloaders
        left_out = []
        for (name, tables), loader in zip(self.tables.items(), loaders[1:], strict=True):
            answered = max((len(table.answers) for table in tables), default=0)
            asked = len(loader.dataset.numbers)
            self.log(f"{prefix}/{set_prefix(name)}questions", float(answered))
            if answered < asked:
                left_out.append(f"{name} {answered} of {asked}")
        if left_out:
            print_above_bars(
                f"answered in time (data.eval_seconds: {self.answers.seconds:g}): "
                f"{', '.join(left_out)} questions"
            )

    def answer(self, asked: Prompts | Texts) -> list[Answer]:
        """A record of each prompt, or of each window of a text."""
        if isinstance(asked, Texts):
            return self.read(asked)
        return answers_of(self.network, self.processor.tokenizer, asked, self.answer_ids(asked))

    def read(self, texts: Texts) -> list[Answer]:
        """A record of each window of a text."""
        self.in_work = texts
        records: list[Answer] = self.compute(
            lambda network, batch: score_texts(network, self.processor.tokenizer, batch), texts
        )
        return records

    def answer_ids(self, prompts: Prompts) -> Tensor:
        """[B, N] int64, the generated tokens of each prompt, as `greedy_ids` gives them.

        `blank` says what of its images is blanked.
        """
        self.in_work = prompts
        if self.blank is not None:
            prompts = blank_images(prompts, self.processor, self.blank)

        def generate(network: PreTrainedModel, prompts: Prompts) -> Tensor:
            with answering(network):
                return greedy_ids(network, prompts, self.max_new_tokens)

        ids: Tensor = self.compute(generate, prompts)
        return ids

    # Test and prediction: answers alone.

    def on_test_epoch_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.set_metrics = {"test": data.metrics}
        self.answers = SetAnswers(["test"])

    def test_step(self, batch: Prompts, batch_idx: int) -> None:
        """Generated answers, to be scored."""
        self.answers.add("test", self.answer(batch))

    def on_test_epoch_end(self) -> None:
        self.log_scores("test")

    def predict_step(self, batch: Prompts, batch_idx: int) -> list[Answer]:
        """Generated answers, scored or not, with the time that they took."""
        since = time.perf_counter()
        answers = self.answer(batch)
        seconds = (time.perf_counter() - since) / len(answers)
        return [replace(answer, seconds=seconds) for answer in answers]
