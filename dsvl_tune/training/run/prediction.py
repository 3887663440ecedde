"""Prediction that resumes after a kill: answers are kept as they come."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from dsvl_tune.evaluation.answer_log import AnswerLog, file_stats
from dsvl_tune.evaluation.answers import Answer, gather_answers

SETTINGS_WITHOUT_EFFECT = (
    "num_workers",
    "eval_batch_size",
    "heldout",
    "eval_rows",
    "eval_seconds",
)
"""Settings of a data module that may change before the command is resumed."""


def answer_test_rows(
    trainer: L.Trainer,
    model: Any,
    data: Any,
    log: AnswerLog,
    checkpoint: Path | None,
) -> list[Answer]:
    """The answer to every test question: of earlier attempts, or new.

    Args:
        trainer: that predicts.
        model: an `AnsweringModule`.
        data: a `ConversationDataModule` that is set up.
        log: where answers are kept.
        checkpoint: run checkpoint that answers; None for the base checkpoint as it is.
    """
    earlier = log.read()
    data.answered = {answer.number for answer in earlier}
    if earlier:
        rank_zero_only(print)(f"resumed: {len(earlier)} answers were kept", flush=True)
    keep = KeepAnswers(log)
    trainer.callbacks.append(keep)  # type: ignore[attr-defined]
    trainer.predict(model, datamodule=data, ckpt_path=checkpoint, return_predictions=False)
    return gather_answers([*earlier, *keep.answers])


def answers_identity(settings: Any, rows: Any, weights: Path) -> str:
    """A hash of what answers depend on.

    Args:
        settings: of the recipe, with the sections "model" and "data".
        rows: that are answered.
        weights: file or folder of the weights.
    """
    data = {**settings["data"]["init_args"]}
    for key in SETTINGS_WITHOUT_EFFECT:
        data.pop(key, None)
    content = [settings["model"], settings["data"]["class_path"], data, file_stats(weights)]
    content += [rows.identity, rows.checksum, len(rows)]
    return hashlib.blake2b(json.dumps(content, default=str).encode(), digest_size=16).hexdigest()


class KeepAnswers(L.Callback):
    """Keeps the answers of each batch.

    Args:
        answer_log: where they are kept.

    Attributes:
        answers: of this process.
    """

    def __init__(self, answer_log: AnswerLog) -> None:
        self.answer_log = answer_log
        self.answers: list[Answer] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.answer_log.start()

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.answers += outputs
        self.answer_log.append(outputs)
