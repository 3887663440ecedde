"""A few held-out questions with picture, references and answer, as each tracker shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from dsvl_tune.core.types import Conversation
from dsvl_tune.data.images.load import load_image
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.training.trackers.trackio_logger import TrackioLogger

SHOWN = 8
"""Questions that are shown at each validation, always the same."""
LONGEST_SIDE = 512
"""Of a picture, in px."""
COLUMNS = ["question", "references", "answer", "scores", "picture"]


@dataclass(frozen=True)
class Sample:
    """A question and its answer.

    Attributes:
        answer: With question, references and scores.
        picture: The images of the question side by side; None without any.
    """

    answer: Answer
    picture: Image.Image | None

    @property
    def texts(self) -> list[str]:
        """Question, references, answer and scores."""
        scores = (f"{name} {score:.3g}" for name, score in self.answer.scores.items())
        references = " | ".join(self.answer.references)
        return [self.answer.question, references, self.answer.text, ", ".join(scores)]


def shown_answers(answers: Sequence[Answer]) -> list[Answer]:
    """Choose the answers to show: evenly spaced, so that every part of the set is among them.

    Args:
        answers: Of a validation, in the order of the questions.
    """
    places = np.linspace(0, len(answers) - 1, min(SHOWN, len(answers))).round().astype(int)
    return [answers[place] for place in places]


def picture_of(conversation: Conversation) -> Image.Image | None:
    """Put the images of a question side by side, scaled down.

    Args:
        conversation: Whose images are read.

    Raises:
        UserError: An image cannot be read any more.
    """
    images = [load_image(ref, conversation.source).convert("RGB") for ref in conversation.images]
    for image in images:
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    if not images:
        return None
    size = (sum(image.width for image in images), max(image.height for image in images))
    picture = Image.new("RGB", size, "white")
    left = 0
    for image in images:
        picture.paste(image, (left, 0))
        left += image.width
    return picture


def log_samples(
    loggers: Sequence[Logger], samples: Sequence[Sample], step: int, *, pictures: bool
) -> None:
    """Show samples in every tracker that has a place for them.

    Args:
        loggers: Of the run.
        samples: The same questions at each validation.
        step: Optimizer steps so far.
        pictures: Whether pictures that a tracker keeps by name are logged, too: once is enough.
    """
    for logger in loggers:
        for kind, log in _LOG.items():
            if isinstance(logger, kind):
                log(logger, samples, step, pictures)


def _log_to_tensorboard(
    logger: TensorBoardLogger, samples: Sequence[Sample], step: int, pictures: bool
) -> None:
    """Pictures and texts; texts are indented, which Markdown shows as they are."""
    for number, sample in enumerate(samples, start=1):
        if pictures and sample.picture is not None:
            pixels = np.asarray(sample.picture)
            logger.experiment.add_image(f"samples/{number}", pixels, step, dataformats="HWC")
        titled = zip(COLUMNS, sample.texts, strict=False)
        lines = [f"**{title}**\n\n    " + text.replace("\n", "\n    ") for title, text in titled]
        logger.experiment.add_text(f"samples/{number}", "\n\n".join(lines), step)


def _log_to_wandb(logger: WandbLogger, samples: Sequence[Sample], step: int, _: bool) -> None:
    """A table for each validation."""
    import wandb

    rows = [
        [*sample.texts, None if sample.picture is None else wandb.Image(sample.picture)]
        for sample in samples
    ]
    logger.log_table("samples", columns=COLUMNS, data=rows, step=step)


def _log_to_mlflow(
    logger: MLFlowLogger, samples: Sequence[Sample], step: int, pictures: bool
) -> None:
    """Artifacts: a JSON file for each validation, and the pictures that it names."""
    rows = []
    for number, sample in enumerate(samples, start=1):
        file = None if sample.picture is None else f"{number}.png"
        rows.append(dict(zip(COLUMNS, [*sample.texts, file], strict=True)))
        if pictures and sample.picture is not None:
            logger.experiment.log_image(
                logger.run_id, sample.picture, artifact_file=f"samples/{number}.png"
            )
    content = {"step": step, "samples": rows}
    logger.experiment.log_dict(logger.run_id, content, f"samples/step-{step:06d}.json")


def _log_to_trackio(logger: TrackioLogger, samples: Sequence[Sample], step: int, _: bool) -> None:
    """A table for each validation."""
    import trackio

    rows = [
        [*sample.texts, "" if sample.picture is None else trackio.Image(sample.picture)]
        for sample in samples
    ]
    logger.log_metrics({"samples": trackio.Table(columns=COLUMNS, data=rows)}, step)


_LOG: dict[type[Logger], Callable[[Any, Sequence[Sample], int, bool], None]] = {
    TensorBoardLogger: _log_to_tensorboard,
    WandbLogger: _log_to_wandb,
    MLFlowLogger: _log_to_mlflow,
    TrackioLogger: _log_to_trackio,
}
