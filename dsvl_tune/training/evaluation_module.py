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
from dsvl_tune.core.types import Batch, Processor, Prompts
from dsvl_tune.evaluation.answers import Answer, gather_answers
from dsvl_tune.evaluation.generation.generate import answer_prompts
from dsvl_tune.evaluation.scoring import aggregate_scores
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.runtime.attention_mask import answering
from dsvl_tune.models.runtime.finite_outputs import blamed_part
from dsvl_tune.models.runtime.fsdp import is_sharded
from dsvl_tune.training.callbacks.nonfinite_steps import check_finite_values
from dsvl_tune.training.distributed.blank_image import add_blank_image
from dsvl_tune.training.feature_cache import FeatureExtractor
from dsvl_tune.training.objectives.base import Objective, Sums


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
        self.answers: list[Answer] = []
        self.validation_sums: list[Tensor] = []

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

    # Validation: the objective's loss over all rows, and answers by generation.

    def validation_step(
        self, batch: Batch | Prompts, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Loss on a `Batch`, generated answers on `Prompts`."""
        if isinstance(batch, Prompts):
            self.answers += self.answer(batch)
        else:
            self.in_work = batch
            sums: Sums = self.compute(self.objective, batch)
            self.validation_sums.append(torch.stack([sums.loss, sums.weight]))

    def on_validation_epoch_end(self) -> None:
        if self.validation_sums:
            sums = self.trainer.strategy.reduce(
                torch.stack(self.validation_sums).sum(0), reduce_op="sum"
            )
            self.validation_sums.clear()
            loss = sums[0] / sums[1]
            check_finite_values({"val/loss": loss}, self.blamed_part)
            self.log("val/loss", loss, prog_bar=True)
        self.log_scores("val")

    def log_scores(self, prefix: str) -> None:
        """Log `PREFIX/METRIC` and `PREFIX/METRIC/TYPE` of the answers that all processes gave."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        answers = gather_answers(self.answers)
        self.answers = []
        scores = aggregate_scores(answers, data.metrics)
        check_finite_values({f"{prefix}/{name}": value for name, value in scores.items()})
        for name, value in scores.items():
            self.log(f"{prefix}/{name}", value, prog_bar="/" not in name)

    def answer(self, prompts: Prompts) -> list[Answer]:
        """A record of each prompt."""
        self.in_work = prompts

        def answer(network: PreTrainedModel, prompts: Prompts) -> list[Answer]:
            with answering(network):
                return answer_prompts(
                    network, self.processor.tokenizer, prompts, self.max_new_tokens
                )

        answers: list[Answer] = self.compute(answer, prompts)
        return answers

    # Test and prediction: answers alone.

    def test_step(self, batch: Prompts, batch_idx: int) -> None:
        """Generated answers, to be scored."""
        self.answers += self.answer(batch)

    def on_test_epoch_end(self) -> None:
        self.log_scores("test")

    def predict_step(self, batch: Prompts, batch_idx: int) -> list[Answer]:
        """Generated answers, scored or not, with the time that they took."""
        since = time.perf_counter()
        answers = self.answer(batch)
        seconds = (time.perf_counter() - since) / len(answers)
        return [replace(answer, seconds=seconds) for answer in answers]
