"""The distinct images of rows: which have cached features, and the vision inputs of the others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from dsvl_tune.core.family import Processor
from dsvl_tune.core.progress import no_bar, tqdm
from dsvl_tune.core.storage.tensor_cache import TensorCache
from dsvl_tune.core.types import Conversation, ImageRef, VisionInput
from dsvl_tune.data.images.load import image_token_ids, load_image
from dsvl_tune.data.images.loader import read_with_key

Rows = Sequence[list[Conversation]]
FORK_FROM = 200
"""Number of rows from which on worker processes save more time than their start takes."""


class KeyedImage(NamedTuple):
    """An image of a row, read but not decoded.

    Attributes:
        ref: with its bytes as content.
        key: in the feature cache.
        tokens: token ids that it occupies in the row.
        images: number of images in the conversation.
        source: of the conversation.
    """

    ref: ImageRef
    key: str
    tokens: int
    images: int
    source: str


@dataclass
class NewImages:
    """The images of each row that no earlier row showed to this process.

    Attributes:
        rows: read one by one.
        processor: of the checkpoint.
        cache: of features.
        seen: name and token count of the images of earlier rows.
    """

    rows: Rows
    processor: Processor
    cache: TensorCache
    seen: set[tuple[str, int]] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.rows)

    def new_images(self, index: int) -> Iterator[KeyedImage]:
        """The images that the row with this number shows first."""
        for conversation in self.rows[index]:
            images = len(conversation.images)
            for ref in conversation.images:
                ids = image_token_ids(ref, self.processor, images, conversation.source)
                identity = (ref.name, len(ids))
                if identity in self.seen:
                    continue
                self.seen.add(identity)
                read, key = read_with_key(ref, len(ids), self.processor, conversation.source)
                yield KeyedImage(read, key, len(ids), images, conversation.source)


class ImageKeys(NewImages):
    """A map-style dataset: key of each new image of a row, and whether its features are cached."""

    def __getitem__(self, index: int) -> list[tuple[str, bool]]:
        return [(image.key, self.cache.has(image.key)) for image in self.new_images(index)]


class MissingImages(NewImages):
    """A map-style dataset: vision input of each new image of a row without cached features."""

    def __getitem__(self, index: int) -> list[VisionInput]:
        family = self.processor.family
        missing = []
        for image in self.new_images(index):
            if self.cache.has(image.key):
                continue
            picture = load_image(image.ref, image.source)
            padded = family.pad_image(picture, self.processor, image.images)
            tensors = family.vision_input(padded, self.processor)
            missing.append(VisionInput(image.ref.name, image.tokens, tensors, image.key))
        return missing


def image_keys(
    rows: Rows, processor: Processor, cache: TensorCache, title: str
) -> Iterator[list[tuple[str, bool]]]:
    """What `ImageKeys` finds in each row, in order; in worker processes, with a progress bar.

    Args:
        rows: of the run.
        processor: of the checkpoint.
        cache: of features.
        title: of the progress bar.
    """
    workers = min(os.cpu_count() or 1, 16) if len(rows) >= FORK_FROM else 0
    loader: DataLoader[Any] = DataLoader(
        ImageKeys(rows, processor, cache),  # type: ignore[arg-type]  # has length and items
        batch_size=None,
        num_workers=workers,
    )
    yield from tqdm(loader, desc=title, unit="row", leave=False, disable=no_bar(), total=len(rows))
