"""Leaks: what held-out conversations share with training conversations."""

from __future__ import annotations

from collections import Counter
from functools import cache

from dsvl_tune.data.validation.perceptual_hash import HashIndex
from dsvl_tune.data.validation.report import SplitReport

NO_IMAGE = -1
"""Stands for the hash of a conversation without an image."""


def leaks(train: SplitReport, held_out: SplitReport) -> dict[str, int]:
    """Held-out conversations whose image or question is in the training data.

    Args:
        train: what is trained on.
        held_out: what is scored.

    Returns:
        "image": conversations that show an image of a training row, or a similar one (`HashIndex`).
        "image and question": those of them whose question is asked about that image in training.
        "question": conversations without an image whose question a training row has, without an
            image too.
    """
    names = {name for one in train.fingerprints for name in one.images}
    index = HashIndex(value for one in train.fingerprints for value in one.hashes)
    near = cache(index.near)
    asked = {
        (value, one.question) for one in train.fingerprints for value in one.hashes or (NO_IMAGE,)
    }
    found = Counter({"image": 0, "image and question": 0, "question": 0})
    for one in held_out.fingerprints:
        similar = [value for own in one.hashes for value in near(own)]
        if similar or names & set(one.images):
            shown = (*similar, *one.hashes)
            found["image"] += 1
            found["image and question"] += any((value, one.question) in asked for value in shown)
        elif not one.images:
            found["question"] += (NO_IMAGE, one.question) in asked
    return dict(found)


def all_leaks(reports: dict[str, SplitReport]) -> dict[str, dict[str, int]]:
    """Leaks of every training split into every held-out split.

    Args:
        reports: by split; the name of a training split ends in "train".

    Returns:
        `leaks` by "TRAINING SPLIT / HELD-OUT SPLIT".
    """
    train = [split for split in reports if split.endswith("train")]
    held_out = [split for split in reports if split not in train and reports[split].conversations]
    return {
        f"{one} / {other}": leaks(reports[one], reports[other])
        for one in train
        for other in held_out
    }
