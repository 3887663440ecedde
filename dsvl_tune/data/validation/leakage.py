"""Leaks: what held-out conversations share with training conversations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.progress import no_bar, tqdm
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.images.load import load_image
from dsvl_tune.data.rows import Rows
from dsvl_tune.data.validation.perceptual_hash import (
    Thumbnail,
    as_words,
    near,
    same_picture,
    thumbnail,
)
from dsvl_tune.data.validation.report import SplitReport


@dataclass
class Leaks:
    """Held-out conversations whose image or question is in the training data.

    Attributes:
        image: conversations that show an image of a training row, or the same picture at another
            size or quality.
        image_and_question: those of them whose question is asked about that image in training.
        question: conversations without an image whose question a training row has, without an image
            too.
        pairs: a held-out image and the training image that it is, by file or row.
    """

    image: int = 0
    image_and_question: int = 0
    question: int = 0
    pairs: list[tuple[str, str]] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """The numbers by what is shared."""
        return {
            "image": self.image,
            "image and question": self.image_and_question,
            "question": self.question,
        }

    def as_json(self) -> dict[str, Any]:
        """Numbers and pairs."""
        return {**self.counts(), "pairs": [list(pair) for pair in self.pairs]}


Thumbnails = Callable[[Collection[str]], Mapping[str, Thumbnail]]
"""Thumbnails of images by their names."""


@dataclass
class SplitImages:
    """The distinct images of a split.

    Attributes:
        hashes: of each image, by its name.
        labels: what messages call each image.
        asked: questions that are asked about each image; those without an image under "".
    """

    hashes: dict[str, int] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    asked: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, report: SplitReport) -> SplitImages:
        """The images of a report."""
        found = cls()
        for one in report.fingerprints:
            for place, name in enumerate(one.images):
                found.labels.setdefault(name, one.image_label(place))
                if one.hashes:
                    found.hashes[name] = one.hashes[place]
            for name in one.images or ("",):
                found.asked.setdefault(name, set()).add(one.question)
        return found


def leaks(train: SplitReport, held_out: SplitReport, thumbnails: Thumbnails) -> Leaks:
    """Find what held-out conversations share with training conversations.

    Args:
        train: what is trained on.
        held_out: what is scored.
        thumbnails: called once, for the images whose hashes are alike.
    """
    trained, scored = SplitImages.of(train), SplitImages.of(held_out)
    same = same_images(scored, trained, thumbnails)
    found = Leaks()
    for one in held_out.fingerprints:
        matches = [name for own in one.images for name in same.get(own, ())]
        if matches:
            found.image += 1
            asked = (one.question in trained.asked[name] for name in matches)
            found.image_and_question += any(asked)
        elif not one.images:
            found.question += one.question in trained.asked.get("", ())
    for own, names in same.items():
        found.pairs += [(scored.labels[own], trained.labels[name]) for name in names]
    return found


def same_images(
    scored: SplitImages, trained: SplitImages, thumbnails: Thumbnails
) -> dict[str, list[str]]:
    """Training images that are the same picture as a held-out image, by its name."""
    names = list(trained.hashes)
    words = as_words([trained.hashes[name] for name in names])
    candidates = {}
    for own, value in scored.hashes.items():
        close = [names[place] for place in near(words, as_words([value])[0])] if names else []
        if others := [name for name in close if name != own]:
            candidates[own] = others
    wanted = {*candidates, *(name for others in candidates.values() for name in others)}
    pictures = thumbnails(wanted) if wanted else {}
    same = {own: [own] for own in scored.labels if own in trained.labels}
    for own, others in candidates.items():
        known = [name for name in others if name in pictures]
        if own in pictures:
            confirmed = same_picture(pictures[own], [pictures[name] for name in known])
            matches = [name for name, is_same in zip(known, confirmed, strict=True) if is_same]
            if matches:
                same.setdefault(own, []).extend(matches)
    return same


def thumbnails_of(
    splits: Mapping[str, Rows], reports: Mapping[str, SplitReport], wanted: Collection[str]
) -> dict[str, Thumbnail]:
    """Thumbnails of images, which are read again.

    Args:
        splits: rows of each split.
        reports: of the same rows.
        wanted: names of the images.
    """
    found: dict[str, Thumbnail] = {}
    with tqdm(
        total=len(wanted), desc="comparing images", unit="image", leave=False, disable=no_bar()
    ) as progress:
        for split, rows in splits.items():
            for conversation in showing(rows, reports[split], set(wanted) - found.keys()):
                for ref in conversation.images:
                    if ref.name not in wanted or ref.name in found:
                        continue
                    with suppress(UserError):  # gone since it was checked
                        found[ref.name] = thumbnail(load_image(ref, conversation.source))
                    progress.update()
    return found


def showing(rows: Rows, report: SplitReport, wanted: Collection[str]) -> Iterator[Conversation]:
    """The conversations that show one of some images first."""
    missing = set(wanted)
    numbers = []
    for one in report.fingerprints:
        if not missing.isdisjoint(one.images):
            missing.difference_update(one.images)
            numbers.append(one.number)
    if not numbers:
        return
    if rows.num_rows is not None:
        conversations = rows.flattened()
        yield from (conversations[number] for number in numbers)
        return
    chosen = set(numbers)
    for number, key in enumerate(rows.keys()):  # a stream, each of whose rows is a conversation
        if number in chosen:
            yield from rows[key]


def all_leaks(reports: Mapping[str, SplitReport], splits: Mapping[str, Rows]) -> dict[str, Leaks]:
    """Leaks of every training split into every held-out split.

    Args:
        reports: by split; the name of a training split ends in "train".
        splits: the rows of each split.

    Returns:
        `leaks` by "TRAINING SPLIT / HELD-OUT SPLIT".
    """
    train = [split for split in reports if split.endswith("train")]
    held_out = [split for split in reports if split not in train and reports[split].conversations]

    def thumbnails(wanted: Collection[str]) -> dict[str, Thumbnail]:
        return thumbnails_of(splits, reports, wanted)

    return {
        f"{one} / {other}": leaks(reports[one], reports[other], thumbnails)
        for one in train
        for other in held_out
    }
