"""Your own data: a file of conversations beside a folder of images."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from dsvl_tune.data.encode import tokenize
from dsvl_tune.data.formats import Format, read_conversations
from dsvl_tune.data.packing import tree_key
from dsvl_tune.data.sources import verify_images
from dsvl_tune.data.template import Form
from dsvl_tune.schema import Conversation, UserError

from .base import ConversationDataModule

MAX_BRANCHES = 8
"""Conversations in one message tree, so that a much-asked image makes no row that memory cannot hold."""


class InstructDataModule(ConversationDataModule):
    """Conversations about images from JSONL or JSON files: OpenAI's messages, or LLaVA's and ShareGPT's.

    Every row is read, tokenised and its images decoded before training begins: bad data ends the run before anything
    is written. Rows with several images, several turns, a system prompt or no image at all may be mixed.

    Args:
        train: file of the training rows.
        validation: file of the rows that are validated on; null holds some of `train` out.
        test: file of the rows scored before and after training; null scores the validation rows.
        images_root: folder that image paths are relative to and may not leave; null takes each data file's folder.
        format: "openai", "llava", or "auto", which tells it from each row's keys.
        message_trees: encode conversations about the same image as one row, image first and once (up to 8 of them).
        validation_rows: conversations to hold out without a validation file, at most a fifth of them; conversations
            that share an image are held out together. 0 validates on nothing.
        verify_images: decode every image once at the start; off, a bad one is found when training comes to it.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.files = {"train": train, "validation": validation, "test": test}
        self.images_root = images_root
        self.format: Format = format
        self.message_trees = message_trees
        self.validation_rows = validation_rows
        self.verify_images = verify_images
        self.splits: dict[str, list[list[Conversation]]] = {}

    def setup(self, stage: str) -> None:
        """Read and check every row of every file.

        Raises:
            UserError: with file, row and field of the first thing that is wrong.
        """
        super().setup(stage)
        if self.splits:
            return
        splits = {split: self.read(file) for split, file in self.files.items() if file is not None}
        if "validation" not in splits and self.validation_rows > 0:
            splits["train"], splits["validation"] = hold_out(splits["train"], self.validation_rows, self.seed)
        self.check(splits)
        self.splits = {
            split: group(conversations) if self.message_trees else [[one] for one in conversations]
            for split, conversations in splits.items()
        }

    def rows(self, split: str) -> list[list[Conversation]]:
        """The file's rows; without a test file "test" are the validation rows, none for a validation not asked for."""
        return self.splits.get(split) or self.splits.get("validation", [])

    def read(self, file: str) -> list[Conversation]:
        """Every row of a file."""
        path = Path(file).expanduser()
        return read_conversations(path, Path(self.images_root or path.parent).expanduser(), self.format)

    def check(self, splits: dict[str, list[Conversation]]) -> None:
        """Tokenise all conversations and decode all images, once: on the first process."""
        if self.trainer is not None and not self.trainer.is_global_zero:
            return
        assert self.processor is not None
        for split, conversations in splits.items():
            form: Form = "generation" if split == "test" else "training"
            for conversation in conversations:
                tokenize(conversation, self.processor, form, self.max_tokens, self.overlong)
        if self.verify_images:
            verify_images(one for conversations in splits.values() for one in conversations)


def group(conversations: list[Conversation]) -> list[list[Conversation]]:
    """Rows for message trees: conversations that fit into one tree together, in the order of their first."""
    rows: list[list[Conversation]] = []
    open_rows: dict[Any, list[Conversation]] = {}
    for conversation in conversations:
        key = tree_key(conversation)
        row = open_rows.get(key) if key is not None else None
        if row is None or len(row) == MAX_BRANCHES:
            row = []
            rows.append(row)
            if key is not None:
                open_rows[key] = row
        row.append(conversation)
    return rows


def hold_out(
    conversations: list[Conversation], wanted: int, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """(training, validation): up to `wanted` and up to a fifth of the conversations held out, at least one group.

    Conversations that share an image go together, so that no held-out image is trained on.

    Raises:
        UserError: all conversations show the same images.
    """
    groups = share_images(conversations)
    if len(groups) < 2:
        raise UserError(
            f"{conversations[0].origin}: the training file has one image or one row only, so none can be held out. "
            "Give data.validation, or set data.validation_rows: 0."
        )
    Random(seed).shuffle(groups)
    limit = min(wanted, len(conversations) // 5)
    held: set[int] = set()
    for members in groups:
        if len(held) + len(members) <= limit:
            held.update(members)
    if not held:
        smallest = min(groups, key=len)
        held.update(smallest)
    train = [one for i, one in enumerate(conversations) if i not in held]
    return train, [one for i, one in enumerate(conversations) if i in held]


def share_images(conversations: list[Conversation]) -> list[list[int]]:
    """Indices of the conversations in groups that have no image in common with another group."""
    groups: dict[int, list[int]] = {}
    home: dict[str, int] = {}
    for i, conversation in enumerate(conversations):
        names = {ref.name for ref in conversation.images}
        first, *others = sorted({home[name] for name in names if name in home}) or [i]
        groups.setdefault(first, []).append(i)
        for other in others:  # this conversation joins groups that were apart
            groups[first] += groups.pop(other)
            home.update({name: first for name, group in home.items() if group == other})
        home.update(dict.fromkeys(names, first))
    return list(groups.values())
