"""Several sources of rows, mixed by shares that may change while training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.readers.stream import StreamedRows
from dsvl_tune.data.sampling.mixture_sampler import MixedSampler
from dsvl_tune.data.sampling.mixture_schedule import Mixture, Ramp
from dsvl_tune.data.validation.lengths import MeasureRow, row_lengths
from dsvl_tune.evaluation.majority_baseline import majority_baseline

from .base import ConversationDataModule, Rows


@dataclass(frozen=True)
class Source(Sequence[list[Conversation]]):
    """The rows of one source as they are mixed.

    Attributes:
        name: in the recipe.
        rows: what its data module gives.
        text: whether it may show no image.
        weight: loss weight of its answers.
        modality_weights: of rows by "text" and "image".
    """

    name: str
    rows: Rows
    text: bool
    weight: float
    modality_weights: dict[str, float]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[Conversation]:  # type: ignore[override]  # never sliced
        """A row with this source's weights; questions without a type are of the source's name."""
        return [self.weighted(conversation) for conversation in self.rows[index]]

    def weighted(self, conversation: Conversation) -> Conversation:
        """The conversation with this source's weights."""
        if self.text and conversation.images:
            raise UserError(
                f"{conversation.source}: an image, but text_only names its source {self.name!r}. Correct one."
            )
        weight = self.weight * self.modality_weights["image" if conversation.images else "text"]
        turns = conversation.turns
        if weight != 1:
            turns = tuple(replace(turn, weight=turn.weight * weight) for turn in turns)
        return replace(
            conversation, turns=turns, question_type=conversation.question_type or self.name
        )


@dataclass(frozen=True)
class MixedRows(Sequence[list[Conversation]]):
    """The rows of all sources, one source after another."""

    sources: Sequence[Source]

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def __getitem__(self, index: int) -> list[Conversation]:  # type: ignore[override]  # never sliced
        for source in self.sources:
            if 0 <= index < len(source):
                return source[index]
            index -= len(source)
        raise IndexError(index)


class MixtureDataModule(ConversationDataModule):
    """Rows of several data modules, mixed by shares. A micro-batch's counts never stray a row from the shares.

    The order is exact: what a step sees follows from seed, mixture and step, also after a resume, with any number of
    workers, and with another number of processes if batch_size times processes stays the same. A source that is smaller
    than its share is gone through again, in a new order. Validation, test and retention_set rows of all sources are joined.

    Args:
        sources: data modules by name; their `checkpoint` and other common keys are this module's.
        shares: of each source, by name, e.g. {text: 7, charts: 3}; null takes the sizes, so every row comes as often.
        text_only: names of the sources that hold text alone.
        text_share: share of the text sources together, by optimizer step: start, end, steps, first, shape (linear,
            cosine). The paper's modality warm-up is {start: 1.0, end: 0.7, steps: ...}. null keeps `shares`.
        homogeneous_steps: optimizer steps all of text or without a text source, in the same shares: a step of text skips the
            vision towers (the paper's modality grouping, 20 % faster there).
        length_grouped: micro-batches of rows of about one length, image tokens counted; rows of files are measured
            once, into a cache.
        with_replacement: names of the sources whose rows are drawn anew each time.
        loss_weights: weight of the answers of a source, by name; 1 if not named.
        modality_weights: weight of the answers in rows with "image" and of "text"; 1 if not named.
        epoch_rows: rows after which an epoch ends; null takes all sources' rows. trainer.max_steps ends by steps.
        **options: checkpoint, batch_size, eval_batch_size, num_workers, seed, max_tokens, on_overflow, system_prompt,
            pack_tokens, metrics.
    """

    def __init__(
        self,
        sources: dict[str, ConversationDataModule],
        shares: dict[str, float] | None = None,
        text_only: tuple[str, ...] = (),
        text_share: Ramp | None = None,
        homogeneous_steps: bool = False,
        length_grouped: bool = False,
        with_replacement: tuple[str, ...] = (),
        loss_weights: dict[str, float] | None = None,
        modality_weights: dict[Literal["text", "image"], float] | None = None,
        epoch_rows: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.sources, self.shares = sources, shares
        self.text_only, self.text_share, self.homogeneous_steps = (
            text_only,
            text_share,
            homogeneous_steps,
        )
        self.length_grouped, self.with_replacement, self.epoch_rows = (
            length_grouped,
            with_replacement,
            epoch_rows,
        )
        self.loss_weights = loss_weights or {}
        given = modality_weights or {}
        self.modality_weights = {"text": given.get("text", 1.0), "image": given.get("image", 1.0)}

    def check_names(self) -> None:
        """Raise on a name that is no source's, a source without a share, and a weight that is not positive."""
        named = {"text_only": self.text_only, "with_replacement": self.with_replacement}
        for key, names in {
            **named,
            "loss_weights": self.loss_weights,
            "shares": self.shares or {},
        }.items():
            if unknown := sorted(set(names) - set(self.sources)):
                raise UserError(
                    f"data.{key}: no source is called {unknown[0]!r}. Sources: {', '.join(self.sources)}."
                )
        if self.shares is not None and (missing := sorted(set(self.sources) - set(self.shares))):
            raise UserError(
                f"data.shares: none for {missing[0]!r}. Give every source its share, or leave shares out."
            )
        for key, weight in (*self.loss_weights.items(), *self.modality_weights.items()):
            if not weight > 0:
                raise UserError(
                    f"data: the loss weight of {key} is {weight}, expected more than 0. Leave it out."
                )

    def setup(self, stage: str) -> None:
        """Set every source up with this module's checkpoint and settings.

        Raises:
            UserError: a name, share, weight or ramp that cannot be, or a source without training rows.
        """
        super().setup(stage)
        self.check_names()
        for source in self.sources.values():
            source.trainer, source.processor, source.seed = self.trainer, self.processor, self.seed
            source.max_tokens, source.on_overflow = self.max_tokens, self.on_overflow
            source.setup(stage)
        self.mixture()

    def rows(self, split: str) -> Rows:
        """The rows of all sources, one source after another."""
        by_modality = self.modality_weights
        return MixedRows(
            [
                Source(
                    name,
                    one.rows(split),
                    name in self.text_only,
                    self.loss_weights.get(name, 1.0),
                    by_modality,
                )
                for name, one in self.sources.items()
            ]
        )

    def checksum(self) -> int:
        """CRC-32 over the sources' checksums."""
        return crc32(repr([source.checksum() for source in self.sources.values()]).encode())

    def majority_baseline(self) -> dict[str, float]:
        """As in `ConversationDataModule`, counted on rows of every source."""
        mixed = self.rows("train")
        assert isinstance(mixed, MixedRows)
        return majority_baseline(mixed.sources, self.rows("test"), self.metrics)

    def unchecked(self) -> dict[str, Rows]:
        """Every source's rows, by source and split."""
        return {
            f"{name} {key}": rows
            for name, one in self.sources.items()
            for key, rows in one.unchecked().items()
        }

    def retention_sets(self) -> dict[str, Rows]:
        """Every source's retention_sets, by source and name."""
        return {
            f"{name}_{retention_set}": rows
            for name, one in self.sources.items()
            for retention_set, rows in one.retention_sets().items()
        }

    def mixture(self) -> Mixture:
        """How the sources are mixed."""
        for name, source in self.sources.items():
            if isinstance(source.rows("train"), StreamedRows):
                raise UserError(
                    f"data.sources: {name!r} is streamed. A mixture counts rows; set its streaming: false."
                )
        sizes = {name: len(source.rows("train")) for name, source in self.sources.items()}
        if empty := [name for name, size in sizes.items() if not size]:
            raise UserError(f"data.sources: {empty[0]!r} has no training rows. Leave it out.")
        shares = self.shares or {name: float(size) for name, size in sizes.items()}
        return Mixture(
            tuple(shares[name] for name in self.sources),
            tuple(name in self.text_only for name in self.sources),
            self.text_share,
            self.homogeneous_steps,
            self.trainer.accumulate_grad_batches if self.trainer else 1,
        )

    def sampler(self, rows: Rows) -> MixedSampler:
        """Which of the training rows come when."""
        rank, world_size = self.share()
        return MixedSampler(
            [len(source.rows("train")) for source in self.sources.values()],
            self.mixture(),
            self.batch_size,
            self.seed,
            rank,
            world_size,
            self.trained_batches,
            [name in self.with_replacement for name in self.sources],
            self.epoch_rows,
            self.lengths() if self.length_grouped else None,
        )

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every training row, one source after another."""
        assert self.processor is not None
        measure = MeasureRow(self.processor, self.max_tokens, self.on_overflow)
        return np.concatenate(
            [
                row_lengths(one.rows("train"), measure, one.identity("train"))
                for one in self.sources.values()
            ]
        )
