"""Your own data: files, folders or tables of conversations, with their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.formats.conversations import Conversations, open_conversations
from dsvl_tune.data.formats.registry import Format
from dsvl_tune.data.readers.stream import StreamedRows
from dsvl_tune.data.sampling.holdout import group_trees, hold_out
from dsvl_tune.data.validation.inspect import Examine, Facts, survey, tree_digest
from dsvl_tune.data.validation.result_cache import cached_inspection

from .base import Rows
from .streamed import FIRST_ROWS, StreamingDataModule, is_far, open_stream


@dataclass(frozen=True)
class ChosenRows(Sequence[list[Conversation]]):
    """Rows of conversations by number: each a message tree, read when it is asked for."""

    conversations: Conversations
    numbers: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> list[Conversation]:  # type: ignore[override]  # never sliced
        return [self.conversations[number] for number in self.numbers[index]]


@dataclass(frozen=True)
class EachRow(Sequence[list[Conversation]]):
    """Every conversation as a row of its own, in order."""

    conversations: Conversations

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> list[Conversation]:  # type: ignore[override]  # never sliced
        return [self.conversations[index]]

    @property
    def identity(self) -> str:
        """The files' stamps, and how their rows are read."""
        read = self.conversations
        return f"{[part.identity for part in read.rows.parts]}{read.images_root}{read.format}{read.allow_urls}"


class InstructDataModule(StreamingDataModule):
    """Conversations about images from JSONL, JSON, CSV, parquet, Arrow, WebDataset tars and Hugging Face datasets.

    A row is in OpenAI's, LLaVA's or ShareGPT's, ms-swift's or the official DeepSeek-VL form, or has the columns
    question and answer, or caption. Rows with several images, several turns, a system prompt or no image may be mixed.

    A file of up to `check_rows` rows is read completely before training begins: rows tokenised, images decoded. Bad
    data then ends the run before anything is written. A larger one is only opened; `dsvl-tune check-data` checks it.

    Args:
        train: the training rows: a file, a pattern of files ("shards/*.tar"), a folder that Hugging Face datasets
            reads, or a name on its hub (owner/name or owner/name/config); the last two may end in "#SPLIT".
        validation: the rows that are validated on; null holds some of `train` out.
        test: the rows scored before and after training; null scores the validation rows.
        images_root: folder that image paths are relative to and may not leave; null takes each data file's folder.
        format: "openai", "llava", "deepseek", "swift", "question_answer", "chartqa", "answers", "scienceqa", "caption",
            or "auto", which tells it from each row's keys.
        message_trees: encode conversations about the same image as one row, image first and once (up to 8 of them);
            in files of up to `check_rows` rows.
        validation_rows: conversations to hold out without a validation file, at most a fifth of them; conversations
            that share an image are held out together. 0 validates on nothing.
        verify_images: decode every image once at the start; off, a bad one is found when training comes to it.
        allow_urls: fetch images that rows name by http(s) URL, once, into a cache; off, nothing is fetched.
        check_rows: rows of a file up to which it is read completely before training.
        streaming: read `train` while training, shard after shard, and keep nothing: a URL (hf://, s3://, https://; * is
            a wildcard), a hub name, a folder or a pattern, of JSONL, CSV, parquet or tar. Rows are shuffled a
            thousand at a time. Held-out rows that are not on this machine are read into memory.
        kwargs: of `ConversationDataModule`.
    """

    def __init__(
        self,
        train: str,
        validation: str | None = None,
        test: str | None = None,
        images_root: str | None = None,
        format: Format = "auto",
        message_trees: bool = True,
        validation_rows: int = 200,
        verify_images: bool = True,
        allow_urls: bool = False,
        check_rows: int = 100_000,
        streaming: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.files = {"train": train, "validation": validation, "test": test}
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
        """Open every file, and read and check every row of those that are not too large.

        Raises:
            UserError: with file, row and field of the first thing that is wrong.
        """
        super().setup(stage)
        if self.splits:
            return
        splits: dict[str, Rows] = {
            split: self.read_streamed(split) for split in self.streamed_splits()
        }
        for split, conversations in self.open_files().items():
            if len(conversations) <= self.check_rows:
                splits |= self.read(split, conversations)
            else:
                splits[split] = self.unread(split, conversations)
        self.splits = splits

    def rows(self, split: str) -> Rows:
        """The file's rows; without a test file "test" are the validation rows, none for a validation not asked for."""
        return self.splits.get(split) or self.splits.get("validation", [])

    def unchecked(self) -> dict[str, Rows]:
        """Every row of every file as it stands there."""
        opened = {
            split: EachRow(conversations) for split, conversations in self.open_files().items()
        }
        streamed = {split: self.open_streamed(split, first=0) for split in self.streamed_splits()}
        return {
            split: (streamed | opened)[split]
            for split, file in self.files.items()
            if file is not None
        }

    def identity(self, split: str) -> str | None:
        """The files' stamps and which of their rows are taken how."""
        rows = self.rows(split)
        assert isinstance(rows, (ChosenRows, EachRow))
        return f"{EachRow(rows.conversations).identity}{rows.numbers if isinstance(rows, ChosenRows) else None}"

    def checksum(self) -> int:
        """As `ConversationDataModule.checksum`; a stream's own state tells it."""
        rows = self.rows("train")
        return rows.conversations.rows.checksum if isinstance(rows, (ChosenRows, EachRow)) else 0

    def open_files(self) -> dict[str, Conversations]:
        """The conversations of each file, not read yet."""
        return {
            split: open_conversations(file, self.images_root, self.format, self.allow_urls)
            for split, file in self.files.items()
            if file is not None and split not in self.streamed_splits()
        }

    def streamed_splits(self) -> list[str]:
        """The splits that are not opened but streamed."""
        named = [split for split, file in self.files.items() if file is not None and self.streaming]
        return [split for split in named if split == "train" or is_far(str(self.files[split]))]

    def open_streamed(self, split: str, first: int) -> StreamedRows:
        """A streamed split with its first rows."""
        name = str(self.files[split])
        return open_stream(name, first, self.seed, self.images_root, self.format, self.allow_urls)

    def read_streamed(self, split: str) -> Rows:
        """A streamed split, its first rows checked; of held-out ones they are all.

        Raises:
            UserError: one of them is bad, too many are held out, or none are and some should be.
        """
        name = self.files[split]
        if split == "train" and self.files["validation"] is None and self.validation_rows > 0:
            raise UserError(
                f"{name}: is streamed, so none of its rows can be held out by their images. Give data.validation, or "
                "set data.validation_rows: 0."
            )
        rows = self.open_streamed(split, FIRST_ROWS if split == "train" else self.check_rows + 1)
        if split != "train" and len(rows) > self.check_rows:
            raise UserError(
                f"{name}: more rows than check_rows ({self.check_rows:,}); held-out rows that are streamed are read "
                "into memory. Name fewer, save them on this machine, or raise data.check_rows."
            )
        self.facts(split, [rows[number] for number in range(len(rows))])
        if split == "train":
            print(
                f"train: streamed from {len(rows.stream.shards):,} files, the first {len(rows):,} rows are checked; "
                "dsvl-tune check-data checks them all",
                flush=True,
            )
        return rows

    def read(self, split: str, conversations: Conversations) -> dict[str, Rows]:
        """The rows of a file, all of them checked; validation rows held out of the training file if need be."""
        facts = self.facts(split, EachRow(conversations))
        held: set[int] = set()
        splits: dict[str, Rows] = {}
        if split == "train" and self.files["validation"] is None and self.validation_rows > 0:
            held = hold_out(
                [one.images for one in facts],
                self.validation_rows,
                self.seed,
                str(self.files["train"]),
            )
            splits["validation"] = self.choose(conversations, facts, sorted(held))
        splits[split] = self.choose(
            conversations, facts, [i for i in range(len(facts)) if i not in held]
        )
        return splits

    def choose(self, conversations: Conversations, facts: list[Facts], numbers: list[int]) -> Rows:
        """Those conversations, as message trees if wanted."""
        keys = ((number, facts[number].tree if self.message_trees else None) for number in numbers)
        return ChosenRows(conversations, group_trees(keys))

    def facts(self, split: str, rows: Rows) -> list[Facts]:
        """What every conversation is, in order. The first process tokenises them all and decodes the images."""
        if self.trainer is not None and not self.trainer.is_global_zero:
            examine: Any = outline
        else:
            assert self.processor is not None
            form: Any = "generation" if split == "test" else "training"
            examine = Examine(
                self.processor, form, self.max_tokens, self.on_overflow, self.verify_images
            )
        found, title = [], f"checking {split} rows"
        known = survey(rows, examine, title)
        if isinstance(rows, EachRow) and isinstance(examine, Examine):
            known = cached_inspection(rows, examine, rows.identity, title)
        for one in known:
            if one.error:
                raise UserError(one.error)
            found.append(one)
        return found

    def unread(self, split: str, conversations: Conversations) -> Rows:
        """A large file's rows, each on its own.

        Raises:
            UserError: validation rows are to be held out of it, which needs all images' names.
        """
        if split == "train" and self.files["validation"] is None and self.validation_rows > 0:
            raise UserError(
                f"{self.files['train']}: {len(conversations):,} rows, more than check_rows ({self.check_rows:,}), so "
                "they are not read before training and none can be held out by their images. Give data.validation, "
                "set data.validation_rows: 0, or raise data.check_rows."
            )
        print(
            f"{split}: {len(conversations):,} rows are opened, not checked, and make no message trees "
            f"(data.check_rows is {self.check_rows:,}); dsvl-tune check-data checks them",
            flush=True,
        )
        return EachRow(conversations)


def outline(row: list[Conversation]) -> list[Facts]:
    """What every process must know of a row; the first one checks the rest."""
    return [
        Facts(one.source, images=tuple(ref.name for ref in one.images), tree=tree_digest(one))
        for one in row
    ]
