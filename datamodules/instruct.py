"""Your own data: files, folders, tables or streams of conversations, with their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.formats.conversations import ConversationRows, open_conversations
from dsvl_tune.data.formats.registry import Format
from dsvl_tune.data.readers.open import is_remote
from dsvl_tune.data.rows import LoadedRows, Rows
from dsvl_tune.data.sampling.holdout import group_trees, hold_out
from dsvl_tune.data.validation.inspect import check_rows
from dsvl_tune.data.validation.row_stats import RowStats, inspect_outline, row_length
from dsvl_tune.families.base import RenderMode

from .base import SPLITS, ConversationDataModule

FIRST_ROWS = 100
"""Rows of a stream that are checked before training, and that baselines are counted on."""


class InstructDataModule(ConversationDataModule):
    """Conversations about images: JSONL, JSON, CSV, parquet, Arrow, WebDataset tars, hub names.

    A row has the form of OpenAI, LLaVA or ShareGPT, ms-swift or the official DeepSeek-VL code, or
    the columns question and answer, or caption. Rows with several images, several turns, a system
    prompt or no image may be mixed.

    A file of up to `check_rows` rows is read completely before training begins: rows tokenized,
    images decoded. Bad data then ends the run before anything is written. A larger file is only
    opened; `dsvl-tune check-data` checks it.

    Args:
        train: the training rows: a file, a pattern of files ("shards/*.tar"), a folder that
            Hugging Face datasets reads, or a name on its hub (owner/name or owner/name/config);
            the last two may end in "#SPLIT".
        validation: the rows that are validated on; null holds some of `train` out.
        test: the rows scored before and after training; null scores the validation rows.
        images_root: folder that image paths are relative to and may not leave; null takes the
            folder of each data file.
        format: "openai", "llava", "deepseek", "swift", "question_answer", "chartqa", "answers",
            "scienceqa", "caption", or "auto", which tells it from each row's keys.
        message_trees: encode conversations about the same image as one row, with the image once
            (up to 8 of them); in files of up to `check_rows` rows.
        validation_rows: conversations to hold out without `validation`, at most a fifth of them;
            conversations that share an image are held out together. 0 validates on nothing.
        verify_images: decode every image once before training; otherwise a bad one is found when
            training comes to it.
        allow_urls: fetch images that rows name by http(s) URL, once, into a cache; otherwise
            nothing is fetched.
        check_rows: rows of a file up to which it is read completely before training.
        streaming: read `train` during training, shard after shard, and keep nothing: a URL
            (hf://, s3://, https://; * is a wildcard), a hub name, a folder or a pattern, of
            JSONL, JSON, CSV, parquet or tar. Rows are shuffled a thousand at a time. With at
            least as many shards as processes, each process reads its own shards. Held-out rows
            that are not on this machine are read into memory.
        **options: as in `ConversationDataModule`.
    """

    def __init__(
        self,
        train: str,
        validation: str | None = None,
        test: str | None = None,
        *,
        images_root: str | None = None,
        format: Format = "auto",
        message_trees: bool = True,
        validation_rows: int = 200,
        verify_images: bool = True,
        allow_urls: bool = False,
        check_rows: int = 100_000,
        streaming: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.train = train
        self.validation = validation
        self.test = test
        self.images_root = images_root
        self.format: Format = format
        self.message_trees = message_trees
        self.validation_rows = validation_rows
        self.verify_images = verify_images
        self.allow_urls = allow_urls
        self.check_rows = check_rows
        self.streaming = streaming
        self.splits: dict[str, Rows] = {}

    def setup(self, stage: str) -> None:
        """Open every split, and check its rows unless they are too many.

        Raises:
            UserError: what is wrong first, with file, row and field.
        """
        super().setup(stage)
        if self.splits:
            return
        splits: dict[str, Rows] = {}
        for split, name in self.names().items():
            rows = self.open(split, name)
            if split == "train" and self.holds_out():
                self.check_holdout(rows)
            if rows.num_rows is None:
                splits[split] = self.checked_stream(split, rows)
            elif rows.num_rows <= self.check_rows:
                splits |= self.checked_files(split, rows)
            else:
                print(
                    f"{split}: {rows.num_rows:,} rows are opened, not checked, and make no message "
                    f"trees (data.check_rows is {self.check_rows:,}); dsvl-tune check-data checks "
                    "them",
                    flush=True,
                )
                splits[split] = rows
        self.splits = splits

    def rows(self, split: str) -> Rows:
        """The rows of a split; without a test file the validation rows are tested on."""
        if split in self.splits:
            return self.splits[split]
        return self.splits.get("validation", LoadedRows())

    def unchecked(self) -> dict[str, Rows]:
        """Every row of every file, in order."""
        return {split: self.open(split, name) for split, name in self.names().items()}

    def skip_image_checks(self) -> None:
        """Let `setup` not decode the images."""
        self.verify_images = False

    def names(self) -> dict[str, str]:
        """What the recipe names for each split that it names."""
        named = zip(SPLITS, (self.train, self.validation, self.test), strict=True)
        return {split: name for split, name in named if name is not None}

    def open(self, split: str, name: str) -> ConversationRows:
        """The rows that a recipe names, each a conversation: opened, or streamed.

        Held-out rows on this machine are never streamed.
        """
        streamed = self.streaming and (split == "train" or is_remote(name))
        conversations = open_conversations(
            name,
            self.images_root,
            format=self.format,
            allow_urls=self.allow_urls,
            stream_seed=self.seed if streamed else None,
        )
        return ConversationRows(conversations)

    def holds_out(self) -> bool:
        """Whether validation rows are held out of the training rows."""
        return self.validation is None and self.validation_rows > 0

    def check_holdout(self, rows: ConversationRows) -> None:
        """Raise if rows are to be held out of too many: that needs the images of all of them."""
        if rows.num_rows is None:
            raise UserError(
                f"{self.train}: is streamed, so none of its rows can be held out by their images. "
                "Give data.validation, or set data.validation_rows: 0."
            )
        if rows.num_rows > self.check_rows:
            raise UserError(
                f"{self.train}: {rows.num_rows:,} rows, more than check_rows "
                f"({self.check_rows:,}), so they are not read before training and none can be held "
                "out by their images. "
                "Give data.validation, set data.validation_rows: 0, or raise data.check_rows."
            )

    def checked_stream(self, split: str, rows: ConversationRows) -> Rows:
        """A stream of training rows, its first ones checked; or held-out rows, all checked.

        Raises:
            UserError: a row is bad, or too many are held out.
        """
        name = rows.conversations.reader.name
        limit = FIRST_ROWS if split == "train" else self.check_rows + 1
        rows = rows.with_first_loaded(limit)
        loaded = rows.in_memory()
        if not len(loaded):
            raise UserError(f"{name}: no rows. Expected at least one conversation.")
        if split != "train" and len(loaded) > self.check_rows:
            raise UserError(
                f"{name}: more rows than check_rows ({self.check_rows:,}); held-out rows that are "
                "streamed are read into memory. Name fewer, save them on this machine, or raise "
                "data.check_rows."
            )
        self.validated(split, loaded)
        if split != "train" or rows.stream is None:
            return loaded
        print(
            f"train: streamed from {len(rows.stream.shards):,} files, the first "
            f"{len(loaded):,} rows are checked; dsvl-tune check-data checks them all",
            flush=True,
        )
        return rows

    def checked_files(self, split: str, rows: ConversationRows) -> dict[str, Rows]:
        """The rows of a split, all checked; of the training rows some may be held out."""
        stats = self.validated(split, rows)
        everything = set(range(len(stats)))
        held_out: set[int] = set()
        splits: dict[str, Rows] = {}
        if split == "train" and self.holds_out():
            images = [one.images for one in stats]
            held_out = hold_out(images, self.validation_rows, self.seed, self.train)
            splits["validation"] = self.grouped(rows, stats, sorted(held_out))
        splits[split] = self.grouped(rows, stats, sorted(everything - held_out))
        return splits

    def validated(self, split: str, rows: ConversationRows) -> list[RowStats]:
        """The results of each conversation, none of which has an error.

        The first process tokenizes all of them and decodes their images.
        """
        title = f"checking {split} rows"
        if self.trainer is not None and not self.trainer.is_global_zero:
            found = check_rows(rows, inspect_outline, title)
        else:
            mode: RenderMode = "generation" if split == "test" else "training"
            inspector = self.inspector(mode, decode=self.verify_images)
            found = check_rows(rows, inspector, title)
        return [stats for (stats,) in found]

    def grouped(
        self, rows: ConversationRows, stats: Sequence[RowStats], numbers: Sequence[int]
    ) -> ConversationRows:
        """Some of the conversations, as message trees if wanted.

        Args:
            rows: all of them.
            stats: the results of each.
            numbers: which to take.
        """
        keys = ((number, stats[number].tree if self.message_trees else None) for number in numbers)
        trees = group_trees(keys)
        lengths = [row_length([stats[number] for number in tree]) for tree in trees]
        known = all(lengths)  # a process that saw only the outline knows none
        return replace(
            rows, trees=trees, lengths=np.array(lengths, dtype=np.int64) if known else None
        )
