"""Your own data: files, folders, tables or streams of conversations, with their images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import RenderMode
from dsvl_tune.data.formats.conversations import ConversationRows, open_conversations
from dsvl_tune.data.formats.registry import Format
from dsvl_tune.data.readers.open import is_remote
from dsvl_tune.data.rows import LoadedRows, Rows
from dsvl_tune.data.sampling.holdout import hold_out
from dsvl_tune.data.validation.inspect import check_rows
from dsvl_tune.data.validation.row_stats import RowStats, inspect_outline
from dsvl_tune.evaluation.scoring import reference_answers, score_tables

from .base import SPLITS, ConversationDataModule
from .checked_rows import check_holdout, check_not_empty, group_rows, load_held_out
from .held_out_sets import references_of

FIRST_ROWS = 100
"""Rows of a stream that are checked before training, and that baselines are counted on."""


class InstructDataModule(ConversationDataModule):
    """Conversations about images: JSONL, JSON, CSV, parquet, Arrow, WebDataset tars, hub names.

    A row has the form of OpenAI, LLaVA or ShareGPT, TRL, ms-swift, the_cauldron or the official
    DeepSeek-VL code, or the columns question and answer, with or without options, or caption. Rows
    with several images, several turns, a system prompt or no image may be mixed.

    A file of up to `check_rows` rows is read completely before training begins: rows tokenized,
    images decoded. Bad data then ends the run before anything is written. A larger file is only
    opened; `dsvl-tune check-data` checks it.

    Args:
        train: the training rows: a file, a pattern of files ("shards/*.tar"), a folder that
            Hugging Face datasets reads, or a name on its hub (owner/name or owner/name/config);
            the last two may end in "#SPLIT". `predict` and `test` do not read them if `test` is
            given.
        validation: the rows that are validated on; null holds some of `train` out.
        test: the rows scored before and after training; null scores the validation rows. Questions
            that are only answered (`predict`) may lack an answer.
        images_root: folder that image paths are relative to and may not leave; null takes the
            folder of each data file.
        format: "openai", "llava", "deepseek", "texts", "prompt_completion", "swift",
            "question_answer", "choices", "chartqa", "answers", "caption", or "auto", which tells
            it from each row's keys.
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
        train: str | None = None,
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
        """Open the splits that a stage needs, and check their rows unless they are too many.

        Args:
            stage: Lightning's "fit", "validate", "test" or "predict".

        Raises:
            UserError: what is wrong first, with file, row and field.
        """
        super().setup(stage)
        wanted = [split for split in self.wanted(stage) if split not in self.splits]
        self.splits |= self.read_splits(wanted)
        if wanted:
            self.check_references()

    def wanted(self, stage: str) -> list[str]:
        """The named splits that a stage needs: `predict` and `test` the test file alone."""
        named = list(self.names())
        if stage == "fit":
            if self.train is None:
                raise UserError(
                    "data.train: null, but training needs rows. Give a file, e.g. --data.train "
                    "my.jsonl."
                )
            return named
        own = "validation" if stage == "validate" else "test"
        return next(([split] for split in (own, "validation", "train") if split in named), [])

    def rows(self, split: str) -> Rows:
        """The rows of a split; without a test file the validation rows are tested on."""
        if split == "test" and split not in self.splits:
            split = "validation"
        return self.splits.get(split, LoadedRows())

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

    def sample_references(self) -> list[tuple[str, ...]]:
        """Accepted answers of the last split that is named: test, else validation, else train."""
        named = [*self.names().items()]
        if not named:
            return []
        rows = self.open(*named[-1])
        return references_of(rows if rows.stream is None else rows.with_first_loaded(FIRST_ROWS))

    def check_references(self) -> None:
        """Raise on the first held-out row whose references its metrics cannot read.

        Rows that are too many to be checked are scored as they come.

        Raises:
            UserError: names file, row and metric.
        """
        for split in ("validation", "test"):
            rows = self.splits.get(split, LoadedRows())
            if 0 < len(rows) <= self.check_rows:
                score_tables(reference_answers(rows), self.metrics)

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
            needs_answer=split != "test",
            stream_seed=self.seed if streamed else None,
        )
        return ConversationRows(conversations)

    def read_splits(self, wanted: Sequence[str]) -> dict[str, Rows]:
        """The rows of some splits, checked, held out and grouped."""
        splits: dict[str, Rows] = {}
        holds_out = self.validation is None and self.validation_rows > 0
        names = self.names()
        for split in wanted:
            rows = self.open(split, names[split])
            if split == "train" and holds_out:
                check_holdout(rows, self.check_rows)
            if rows.num_rows is None and split == "train":
                splits[split] = self.check_stream(rows)
            elif rows.num_rows is None:
                splits[split] = load_held_out(rows, self.check_rows)
                self.check(split, splits[split])
            elif rows.num_rows > self.check_rows:
                splits[split] = rows
                self.report_unchecked(split, rows.num_rows)
            else:
                splits |= self.check_files(split, rows, holds_out and split == "train")
        return splits

    def check_stream(self, rows: ConversationRows) -> ConversationRows:
        """A stream of training rows, its first ones loaded and checked."""
        rows = rows.with_first_loaded(FIRST_ROWS)
        first = rows.in_memory()
        check_not_empty(first)
        self.check("train", first)
        assert rows.stream is not None
        print(
            f"train: streamed from {len(rows.stream.shards):,} files, the first {len(first):,} "
            "rows are checked; dsvl-tune check-data checks them all",
            flush=True,
        )
        return rows

    def check_files(self, split: str, rows: ConversationRows, holds_out: bool) -> dict[str, Rows]:
        """The rows of opened files, all checked and grouped.

        Args:
            split: their split.
            rows: each a conversation.
            holds_out: whether validation rows are held out of them.
        """
        stats = self.check(split, rows)
        held_out: set[int] = set()
        if holds_out:
            images = [one.images for one in stats]
            held_out = hold_out(images, self.validation_rows, self.seed, rows.name)
        kept = [number for number in range(len(stats)) if number not in held_out]
        group = partial(group_rows, rows, stats, as_trees=self.message_trees)
        splits: dict[str, Rows] = {split: group(kept)}
        if held_out:
            splits["validation"] = group(sorted(held_out))
        return splits

    def check(self, split: str, rows: Rows) -> list[RowStats]:
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

    def report_unchecked(self, split: str, num_rows: int) -> None:
        """Print that a split is too large to be checked."""
        print(
            f"{split}: {num_rows:,} rows are opened, not checked, and make no message trees "
            f"(data.check_rows is {self.check_rows:,}); dsvl-tune check-data checks them",
            flush=True,
        )
