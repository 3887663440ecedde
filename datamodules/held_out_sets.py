"""Held-out sets: named files that are scored during training, and which of their questions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset, Sampler

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor
from dsvl_tune.data.encoding.text_windows import TextWindows, make_texts
from dsvl_tune.data.formats.conversations import ConversationRows, open_conversations
from dsvl_tune.data.formats.registry import Format
from dsvl_tune.data.rows import LazyItems, LoadedRows, Rows
from dsvl_tune.data.validation.inspect import Inspect, check_rows
from dsvl_tune.evaluation.default_metrics import default_metrics
from dsvl_tune.evaluation.metrics import METRICS, Metric, find_metrics
from dsvl_tune.evaluation.metrics.token_scores import TOKEN_METRICS
from dsvl_tune.evaluation.scoring import reference_answers, score_tables

FIRST_ROWS = 1000
"""Rows whose references choose the metrics of data that name none."""
TEXT_SUFFIX = ".txt"
"""A held-out file of this name is a text that is read, not rows of questions."""
SORTED_AT_ONCE = 512
"""Questions that are sorted by length at a time: they are read before the first is answered."""
TAKEN_NAMES = {"test", "validation", "train", "loss"}
"""Names that a held-out set cannot have, besides those of metrics: they are logged otherwise."""


@dataclass(frozen=True)
class HeldOutFile:
    """A held-out set that a recipe names.

    Args:
        path: rows of questions and answers, as `InstructDataModule` reads them; or a text (.txt),
            whose perplexity is measured.
        metrics: as in `ConversationDataModule`; null chooses them by the references of this set.
        images_root: as in `InstructDataModule`.
        format: as in `InstructDataModule`.
    """

    path: str
    metrics: Sequence[Metric | str] | None = None
    images_root: str | None = None
    format: Format = "auto"

    @property
    def is_text(self) -> bool:
        """Whether it is a text that is read."""
        return self.path.endswith(TEXT_SUFFIX)


@dataclass(frozen=True)
class HeldOutSet:
    """A named set that is scored before, during and after training.

    Attributes:
        metrics: what is measured.
        rows: its questions; none of a text.
        text: the text file, if it is one.
    """

    metrics: tuple[Metric, ...]
    rows: Rows = field(default_factory=LoadedRows)
    text: Path | None = None


def open_held_out(name: str, given: str | HeldOutFile) -> HeldOutSet:
    """A held-out set that a recipe names, opened.

    Args:
        name: of the set.
        given: its file.

    Raises:
        UserError: the name is taken, the file cannot be opened, or there is no such metric.
    """
    file = HeldOutFile(given) if isinstance(given, str) else given
    check_name(name)
    if file.is_text:
        path = Path(file.path).expanduser()
        if file.metrics is not None or not path.is_file():
            wrong = "a text has no metrics of its own" if path.is_file() else "no such file"
            raise UserError(f"data.heldout.{name}: {file.path}: {wrong}. Expected a text file.")
        return HeldOutSet(TOKEN_METRICS, text=path)
    rows = ConversationRows(
        open_conversations(file.path, file.images_root, format=file.format, needs_answer=True)
    )
    option = f"data.heldout.{name}.metrics"
    return HeldOutSet(choose_metrics(file.metrics, rows, option, f" of {name}"), rows)


def check_name(name: str) -> None:
    """Raise if a held-out set cannot have this name."""
    if name in TAKEN_NAMES or name in METRICS or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(
            f"data.heldout: a set cannot be called {name!r}, because its figures are logged as "
            "val/NAME/METRIC. Use letters, digits, - and _, and no name of a metric or a split."
        )


def choose_metrics(
    given: Sequence[Metric | str] | None, rows: Rows, option: str, whose: str = ""
) -> tuple[Metric, ...]:
    """The metrics that a recipe names, else those that the references choose.

    Args:
        given: as in `ConversationDataModule`.
        rows: whose references are looked at.
        option: key that names metrics, for messages.
        whose: words that say whose metrics they are.
    """
    if given is not None:
        return find_metrics(given, option)
    return announce_metrics(references_of(rows), option, whose)


def announce_metrics(
    references: Sequence[Sequence[str]], option: str, whose: str = ""
) -> tuple[Metric, ...]:
    """The metrics that references choose; says which and why."""
    chosen = default_metrics(references)
    rank_zero_only(print)(f"metrics{whose}: {chosen}; {option} names others", flush=True)
    return find_metrics(chosen.names)


def references_of(rows: Rows) -> list[tuple[str, ...]]:
    """Accepted answers to the first questions whose rows leave the metrics to the data module."""
    return [
        conversation.accepted_answers
        for row in rows.head(FIRST_ROWS)
        for conversation in row
        if "metric" not in conversation.scoring
    ]


def check_held_out(sets: Mapping[str, HeldOutSet], inspect: Inspect) -> None:
    """Read every row of the sets before training.

    Args:
        sets: by name.
        inspect: tokenizes a row and decodes its images.

    Raises:
        UserError: names file and row of the first row that cannot be read or whose references its
            metrics cannot read; or a set without rows.
    """
    for name, one in sets.items():
        if one.text is not None:
            continue
        if not len(one.rows):
            raise UserError(f"data.heldout.{name}: no rows. Expected questions with answers.")
        check_rows(one.rows, inspect, f"checking {name} rows")
        score_tables(reference_answers(one.rows), one.metrics)


def text_loader(
    windows: TextWindows,
    processor: Processor,
    process: tuple[int, int],
    batch_size: int,
    numbers: Sequence[int] | None,
) -> DataLoader[Any]:
    """This process's windows of a text.

    Args:
        windows: of the text.
        processor: of the checkpoint.
        process: (rank, number of processes).
        batch_size: windows of a batch.
        numbers: of the windows to serve; None serves all.
    """
    part = ProcessPart(windows, range(len(windows)) if numbers is None else numbers, *process)
    return DataLoader(
        part,
        batch_size,
        sampler=UntilStopped(part),
        collate_fn=partial(make_texts, pad_id=processor.pad_id),
    )


def subset(name: str, items: int, most: int | None, seed: int, *, in_order: bool) -> list[int]:
    """Numbers of the items of a set that validations score: always the same ones.

    Args:
        name: of the set.
        items: number of its items.
        most: number of items to take; None takes all.
        seed: of the run.
        in_order: whether they come in their order, else shuffled, so that the first of them are a
            random sample, too.
    """
    generator = np.random.default_rng((seed, crc32(name.encode())))
    chosen = generator.permutation(items)[:most].tolist()
    return sorted(chosen) if in_order else chosen


class UntilStopped(Sampler[int]):
    """Positions in a part, until no more are wanted.

    Args:
        part: what is served.
        by_length: whether questions of similar length come together, which saves padding. Those
            about the same images stay together, too: they share their prefix.
    """

    def __init__(self, part: ProcessPart, *, by_length: bool = False) -> None:
        self.part = part
        self.by_length = by_length
        self.stopped = False

    def __len__(self) -> int:
        return len(self.part)

    def __iter__(self) -> Iterator[int]:
        self.stopped = False
        for start in range(0, len(self), SORTED_AT_ONCE):
            positions = range(start, min(start + SORTED_AT_ONCE, len(self)))
            for position in self.sorted(positions) if self.by_length else positions:
                if self.stopped:
                    return
                yield position

    def sorted(self, positions: Sequence[int]) -> list[int]:
        """Positions of questions by their images, those with the shortest text first."""
        groups: dict[Any, list[int]] = defaultdict(list)
        lengths: dict[Any, tuple[int, int]] = {}
        for position in positions:
            _, conversation = self.part[position]
            images = tuple(image.name for image in conversation.images)
            group = images or position
            length = len(images), sum(len(turn.text) for turn in conversation.turns)
            groups[group].append(position)
            lengths[group] = max(length, lengths.get(group, length))
        return [one for group in sorted(groups, key=lengths.__getitem__) for one in groups[group]]


@dataclass(frozen=True)
class ProcessPart(Dataset[tuple[int, Any]]):
    """Every n-th item with its number; the first items are repeated until all parts are equal.

    Attributes:
        items: the items of all processes.
        numbers: of the items that are served.
        rank: this process.
        world_size: number of processes.
    """

    items: LazyItems[Any]
    numbers: Sequence[int]
    rank: int
    world_size: int

    def __len__(self) -> int:
        return -(-len(self.numbers) // self.world_size)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        number = self.numbers[(self.rank + index * self.world_size) % len(self.numbers)]
        return number, self.items[number]
