"""The held-out half of a data module: which questions are answered, and what scores them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor
from dsvl_tune.data.encoding.batches import make_prompts, make_share
from dsvl_tune.data.encoding.text_windows import read_text_windows
from dsvl_tune.data.rows import LazyItems, Rows
from dsvl_tune.evaluation.majority_baseline import majority_baseline
from dsvl_tune.evaluation.metrics import Metric, find_metrics
from dsvl_tune.evaluation.metrics.token_scores import TOKEN_METRICS

from .held_out_sets import (
    HeldOutFile,
    HeldOutSet,
    ProcessPart,
    UntilStopped,
    announce_metrics,
    open_held_out,
    references_of,
    subset,
    text_loader,
)


class HeldOutDataModule(L.LightningDataModule):
    """Loaders, metrics and named sets of held-out rows.

    Attributes:
        batch_size: as in `ConversationDataModule`, and so on.
    """

    batch_size: int
    eval_batch_size: int
    num_workers: int
    seed: int
    max_tokens: int | None
    heldout: Mapping[str, str | HeldOutFile] | None
    eval_rows: int | None
    eval_seconds: float | None
    answered: Collection[int]
    _metrics: Sequence[Metric | str] | None

    # What the rest of the data module serves.

    @abstractmethod
    def rows(self, split: str) -> Rows:
        """Rows of a split."""

    @abstractmethod
    def retention_sets(self) -> dict[str, Rows]:
        """Held-out rows outside the domain, by name."""

    @abstractmethod
    def read_processor(self) -> Processor:
        """The checkpoint's processor."""

    @abstractmethod
    def process(self) -> tuple[int, int]:
        """Rank of this process, and the number of processes that read different data."""

    @abstractmethod
    def encoding(self, make: Callable[..., Any]) -> Callable[[list[Any]], Any]:
        """`make` with the settings of the data module."""

    @abstractmethod
    def batching(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """`make_batch` or `make_share` with the length of a packed row."""

    # Held-out rows.

    @property
    def validation_sets(self) -> dict[str, HeldOutSet]:
        """What a validation answers, in the order of its loaders: "validation", then the others."""
        return {
            "validation": HeldOutSet(self.metrics, self.rows("validation")),
            **self.held_out_sets,
        }

    @property
    def final_sets(self) -> dict[str, HeldOutSet]:
        """What is answered before and after training: "test", then the other held-out sets."""
        return {"test": HeldOutSet(self.metrics, self.rows("test")), **self.held_out_sets}

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Batches of "validation" for the loss, then a loader for each of `validation_sets`."""
        rows = self.rows("validation")
        if not len(rows):
            return []
        make = partial(self.batching(make_share), share=self.process())
        loss = self.held_out_loader(rows, self.batch_size, make)
        sets = self.validation_sets
        return [loss, *(self.set_loader(name, sets[name], sampled=True) for name in sets)]

    def set_loader(self, name: str, held_out: HeldOutSet, *, sampled: bool) -> DataLoader[Any]:
        """What is answered or read of a held-out set.

        Args:
            name: of the set.
            held_out: the set.
            sampled: whether `eval_rows` limits it.
        """
        process = self.process()
        if held_out.text is not None:
            windows = read_text_windows(held_out.text, self.read_processor(), self.max_tokens)
            numbers = self.sampled_numbers(name, len(windows)) if sampled else None
            return text_loader(windows, self.read_processor(), process, self.batch_size, numbers)
        questions = held_out.rows.flattened()
        numbers = self.sampled_numbers(name, len(questions)) if sampled else None
        by_length = not (sampled and self.eval_seconds is not None)  # else the first are a sample
        return self.question_loader(questions, numbers, by_length=by_length)

    def sampled_numbers(self, name: str, items: int) -> list[int]:
        """Which questions of a set are answered at a validation."""
        in_order = self.eval_seconds is None
        return subset(name, items, self.eval_rows, self.seed, in_order=in_order)

    def test_dataloader(self) -> DataLoader[Any]:
        """Prompts over "test"."""
        return self.prompt_loader(self.rows("test"))

    def predict_dataloader(self) -> DataLoader[Any]:
        """Prompts over "test", but for those in `answered`."""
        questions = self.rows("test").flattened()
        # Rank 0 decides: the parts of all processes must be of the same questions.
        answered = set(self.trainer.strategy.broadcast(self.answered) if self.trainer else ())
        numbers = [number for number in range(len(questions)) if number not in answered]
        return self.question_loader(questions, numbers)

    def prompt_loader(self, rows: Rows) -> DataLoader[Any]:
        """One prompt per conversation."""
        return self.question_loader(rows.flattened())

    def question_loader(
        self,
        questions: LazyItems[Any],
        numbers: Sequence[int] | None = None,
        *,
        by_length: bool = True,
    ) -> DataLoader[Any]:
        """Prompts of questions.

        Args:
            questions: conversations.
            numbers: of those to ask; None asks all.
            by_length: whether those of similar length are asked together; each prompt has its
                number, so answers can be put in order again.
        """
        return self.held_out_loader(
            questions, self.eval_batch_size, make_prompts, numbers, by_length=by_length
        )

    def held_out_loader(
        self,
        items: LazyItems[Any],
        batch_size: int,
        make: Callable[..., Any],
        numbers: Sequence[int] | None = None,
        *,
        by_length: bool = False,
    ) -> DataLoader[Any]:
        """This process's part of numbered items; they are read by the loader's workers.

        Args:
            items: rows or conversations.
            batch_size: items of a batch.
            make: makes a batch of (number, item) pairs.
            numbers: of the items to serve; None serves all.
            by_length: whether conversations of similar length come together, else in order.
        """
        served = range(len(items)) if numbers is None else numbers
        part = ProcessPart(items, served, *self.process())
        return DataLoader(
            part,
            batch_size=batch_size,
            sampler=UntilStopped(part, by_length=by_length),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            collate_fn=self.encoding(make),
        )

    # Scores.

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """What scores generated answers.

        Raises:
            UserError: an unknown name, or two metrics of one name.
        """
        if self._metrics is not None:
            return find_metrics(self._metrics)
        return announce_metrics(self.sample_references(), "data.metrics")

    @cached_property
    def held_out_sets(self) -> dict[str, HeldOutSet]:
        """Held-out sets besides the splits, by name: those of `heldout`, and retention sets.

        Raises:
            UserError: one cannot be opened, or its name is taken.
        """
        named = self.heldout or {}
        sets = {name: open_held_out(name, given) for name, given in named.items()}
        for name, rows in self.retention_sets().items():
            if name in sets:
                raise UserError(f"data.heldout: there is a set {name!r} already. Rename yours.")
            sets[name] = HeldOutSet(self.metrics, rows)
        return sets

    @property
    def all_metrics(self) -> tuple[Metric, ...]:
        """What any held-out set is scored by, each name once."""
        sets = self.held_out_sets.values()
        found = [*self.metrics, *(metric for one in sets for metric in one.metrics), *TOKEN_METRICS]
        return tuple({metric.name: metric for metric in reversed(found)}.values())[::-1]

    def sample_references(self) -> list[tuple[str, ...]]:
        """Accepted answers of some held-out questions, also before `setup`."""
        return references_of(self.rows("test"))

    def majority_baseline(self) -> dict[str, float]:
        """Figures of the best constant answers to "test", counted on training rows."""
        return majority_baseline([self.rows("train")], self.rows("test"), self.metrics)
