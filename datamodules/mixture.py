"""Several sources of rows, mixed in ratios that may change during training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.rows import Rows
from dsvl_tune.data.sampling.mixture_sampler import MixtureSampler
from dsvl_tune.data.sampling.mixture_schedule import Mixture, Ramp
from dsvl_tune.evaluation.majority_baseline import majority_baseline
from dsvl_tune.evaluation.metrics import Metric, find_metrics

from .base import ConversationDataModule
from .held_out_sets import HeldOutSet
from .mixed_rows import MixedRows, SourceRows


class MixtureDataModule(ConversationDataModule):
    """Rows of several data modules, mixed in ratios. A micro-batch never strays a row from them.

    The order is exact: what a step sees follows from seed, mixture and step, also after a resume,
    with any number of workers, and with another number of processes if batch_size times processes
    stays the same. A source that is smaller than its ratio demands is gone through again, in a
    new order. A streamed source is read on without an end; its epochs are its own.

    Validation and test rows of all sources are joined; each source's held-out sets stay apart, as
    `SOURCE_NAME`. Without `metrics`, the rows of each source are scored by its own.

    Args:
        sources: data modules by name; this module sets their `checkpoint` and other common
            settings.
        ratios: of each source, by name, e.g. {text: 7, charts: 3}; null takes the numbers of
            rows, so that every row comes equally often. With a streamed source they are required.
        text_only: names of the sources that hold text alone.
        text_ratio: ratio of the text sources together, by optimizer step: start, end, steps,
            first, shape (linear, cosine). The paper's modality warm-up is {start: 1.0, end: 0.7,
            steps: ...}. null keeps `ratios`.
        homogeneous_steps: an optimizer step holds rows of text sources only, or none of them, in
            the same ratios: a step of text skips the vision towers (the paper's modality
            grouping, 20 % faster there).
        length_grouped: micro-batches of rows of similar length, image tokens counted. Rows are
            measured when they are validated, or once, into a cache. Not possible with a streamed
            source.
        with_replacement: names of the sources whose rows are drawn with replacement.
        loss_weights: weight of the answers of a source, by name; 1 by default.
        modality_weights: weight of the answers in rows with "image" and of "text"; 1 by default.
        epoch_rows: rows after which an epoch ends; null takes all sources' rows, or no end with a
            streamed source. trainer.max_steps ends by steps.
        **options: as in `ConversationDataModule`.
    """

    def __init__(
        self,
        sources: dict[str, ConversationDataModule],
        *,
        ratios: dict[str, float] | None = None,
        text_only: tuple[str, ...] = (),
        text_ratio: Ramp | None = None,
        homogeneous_steps: bool = False,
        length_grouped: bool = False,
        with_replacement: tuple[str, ...] = (),
        loss_weights: dict[str, float] | None = None,
        modality_weights: dict[Literal["text", "image"], float] | None = None,
        epoch_rows: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.sources = sources
        self.ratios = ratios
        self.text_only = text_only
        self.text_ratio = text_ratio
        self.homogeneous_steps = homogeneous_steps
        self.length_grouped = length_grouped
        self.with_replacement = with_replacement
        self.loss_weights = loss_weights
        self.modality_weights = modality_weights
        self.epoch_rows = epoch_rows

    def setup(self, stage: str) -> None:
        """Set every source up with this module's checkpoint and settings.

        Raises:
            UserError: a name, ratio, weight or ramp is invalid, or a source has no training rows.
        """
        super().setup(stage)
        self.check_names()
        self.check_weights()
        for source in self.sources.values():
            source.take_settings(self)
            source.setup(stage)
        if stage == "fit":
            self.mixture()

    def skip_image_checks(self) -> None:
        """Let `setup` not decode the images of any source."""
        for source in self.sources.values():
            source.skip_image_checks()

    def check_names(self) -> None:
        """Raise on a name that no source has, and on a source without a ratio."""
        named: dict[str, Iterable[str]] = {
            "text_only": self.text_only,
            "with_replacement": self.with_replacement,
            "loss_weights": self.loss_weights or {},
            "ratios": self.ratios or {},
        }
        for key, names in named.items():
            if unknown := sorted(set(names) - set(self.sources)):
                raise UserError(
                    f"data.{key}: no source is called {unknown[0]!r}. "
                    f"Sources: {', '.join(self.sources)}."
                )
        if self.ratios is not None and (missing := sorted(set(self.sources) - set(self.ratios))):
            raise UserError(
                f"data.ratios: none for {missing[0]!r}. "
                "Give every source its ratio, or leave ratios out."
            )

    def check_weights(self) -> None:
        """Raise on a loss weight that is not positive."""
        weights = [*(self.loss_weights or {}).items(), *(self.modality_weights or {}).items()]
        for key, weight in weights:
            if not weight > 0:
                raise UserError(
                    f"data: the loss weight of {key} is {weight}, expected more than 0. "
                    "Leave it out for 1."
                )

    def rows(self, split: str) -> MixedRows:
        """The rows of all sources, one source after another."""
        given = self.modality_weights or {}
        modality_weights = {"text": given.get("text", 1.0), "image": given.get("image", 1.0)}
        loss_weights = self.loss_weights or {}
        return MixedRows(
            [
                SourceRows(
                    name,
                    source.rows(split),
                    name in self.text_only,
                    loss_weights.get(name, 1.0),
                    modality_weights,
                    self.names_of_metrics(name),
                )
                for name, source in self.sources.items()
            ]
        )

    def unchecked(self) -> dict[str, Rows]:
        """Every source's rows, by source and split."""
        return {
            f"{name} {split}": rows
            for name, source in self.sources.items()
            for split, rows in source.unchecked().items()
        }

    @cached_property
    def source_metrics(self) -> dict[str, tuple[Metric, ...]]:
        """What the rows of each source are scored by.

        Raises:
            UserError: two sources mean different metrics by one name.
        """
        given = None if self._metrics is None else find_metrics(self._metrics)
        by_name: dict[str, Metric] = {}
        chosen = {}
        for name, source in self.sources.items():
            metrics = source.metrics if given is None else given
            for metric in metrics:
                if not same_metric(by_name.setdefault(metric.name, metric), metric):
                    raise UserError(
                        f"data.sources: {name!r} has another metric {metric.name!r} than a source "
                        "before it. Give both the same settings, or a class with a name of its own."
                    )
            chosen[name] = source.metrics = tuple(by_name[metric.name] for metric in metrics)
        return chosen

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of all sources, each once; a row is scored by those of its source."""
        metrics = [metric for own in self.source_metrics.values() for metric in own]
        return tuple({metric.name: metric for metric in metrics}.values())

    def names_of_metrics(self, source: str) -> tuple[str, ...]:
        """Names of the metrics of a source; () if those of the mixture score its rows as well."""
        own = self.source_metrics[source]
        return () if own == self.metrics else tuple(metric.name for metric in own)

    @cached_property
    def held_out_sets(self) -> dict[str, HeldOutSet]:
        """The mixture's own held-out sets, and those of every source by source and name."""
        _ = self.source_metrics  # which the sources' sets are scored by
        return super().held_out_sets | {
            f"{name}_{own_name}": held_out
            for name, source in self.sources.items()
            for own_name, held_out in source.held_out_sets.items()
        }

    def batching(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """As in `ConversationDataModule`, with the names of the sources."""
        return partial(super().batching(make), mixture_sources=tuple(self.sources))

    def row_lengths(self) -> NDArray[np.int64]:
        """Tokens of each training row, one source after another: [R] int64."""
        return np.concatenate([source.row_lengths() for source in self.sources.values()])

    def majority_baseline(self) -> dict[str, float]:
        """As in `ConversationDataModule`, counted on rows of every source."""
        return majority_baseline(self.rows("train").sources, self.rows("test"), self.metrics)

    def mixture(self) -> Mixture:
        """How the sources are mixed.

        Raises:
            UserError: a source has no training rows, or is streamed where rows are counted.
        """
        sizes = {name: source.rows("train").num_rows for name, source in self.sources.items()}
        for name, size in sizes.items():
            if size == 0:
                raise UserError(f"data.sources: {name!r} has no training rows. Leave it out.")
            if size is None:
                self.check_streamed(name)
        ratios = self.ratios or {name: float(size or 0) for name, size in sizes.items()}
        return Mixture(
            ratios=tuple(ratios[name] for name in self.sources),
            text=tuple(name in self.text_only for name in self.sources),
            text_ratio=self.text_ratio,
            homogeneous_steps=self.homogeneous_steps,
            batches_per_step=self.trainer.accumulate_grad_batches if self.trainer else 1,
        )

    def check_streamed(self, name: str) -> None:
        """Raise if a setting needs the number or the lengths of a streamed source's rows."""
        needs = {
            "data.ratios: null": self.ratios is None,
            "data.length_grouped": self.length_grouped,
            "data.with_replacement": name in self.with_replacement,
        }
        for key, is_set in needs.items():
            if is_set:
                raise UserError(
                    f"{key} needs the rows of all sources beforehand, but source {name!r} is "
                    "streamed. Set ratios, and leave out length_grouped and with_replacement."
                )

    def sampler(self, rows: Rows) -> MixtureSampler:
        """Which of the training rows come when."""
        sources = [source.rows("train") for source in self.sources.values()]
        return MixtureSampler(
            [rows.stream or len(rows) for rows in sources],
            self.mixture(),
            self.batch_size,
            seed=self.seed,
            with_replacement=[name in self.with_replacement for name in self.sources],
            epoch_rows=self.epoch_rows,
            lengths=self.row_lengths() if self.length_grouped else None,
            **self.sampler_options(),
        )


def same_metric(one: Metric, other: Metric) -> bool:
    """Whether two metrics are of one class and have the same settings."""
    return one is other or (type(one) is type(other) and vars(one) == vars(other))
