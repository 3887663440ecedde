"""Fill a feature cache with the images of a run, on all devices of a trainer."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Subset

from dsvl_tune.core.family import Processor
from dsvl_tune.core.storage.tensor_cache import TensorCache
from dsvl_tune.core.types import VisionBatch, VisionInput
from dsvl_tune.data.encoding.collate import stack_images
from dsvl_tune.data.images.missing_features import MissingImages, Rows, image_keys
from dsvl_tune.training.feature_cache import FeatureExtractor


class FeatureFiller(L.LightningModule):
    """Caches the features of images by Lightning's `predict`, which handles devices and precision.

    Args:
        extractor: with the cache.
        rows: of the run.
        numbers: of the rows that show images without cached features.
        processor: of the checkpoint.
        batch_size: rows whose images are encoded at once.
        num_workers: processes that decode images.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        rows: Rows,
        numbers: list[int],
        processor: Processor,
        *,
        batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.network = extractor.model  # registered, so that Lightning moves it to the device
        self.rows = rows
        self.numbers = numbers
        self.processor = processor
        self.batch_size = batch_size
        self.num_workers = num_workers

    def predict_dataloader(self) -> DataLoader[Any]:
        """This rank's share of the rows; an image that is cached by now is not loaded again."""
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        own = [number for number in self.numbers if number % world_size == rank]
        rows: Any = Subset(self.rows, own)  # type: ignore[arg-type]  # any sequence will do
        return DataLoader(
            MissingImages(rows, self.processor, self.extractor.cache),  # type: ignore[arg-type]
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=stack_rows,
        )

    def predict_step(self, batch: VisionBatch, batch_idx: int) -> int:
        """Compute and cache the features of a batch; the number of its images."""
        if batch.vision_inputs and not self.extractor.cache.closed:
            family = self.processor.family
            vision_inputs = family.normalize(batch.vision_inputs, self.processor)
            self.extractor.compute(vision_inputs, batch.feature_keys)
        return len(batch.feature_keys)

    def on_predict_epoch_end(self) -> None:
        self.trainer.strategy.barrier()


def stack_rows(rows: list[list[VisionInput]]) -> VisionBatch:
    """The images of several rows, each once."""
    return VisionBatch(**stack_images([image for row in rows for image in row]))


def find_missing(
    rows: Rows, processor: Processor, cache: TensorCache
) -> tuple[dict[str, bool], list[int]]:
    """Find the distinct images of rows.

    Returns:
        Of each image, by key, whether its features are cached; and the numbers of the rows that
        are the first to show one that is not.
    """
    cached: dict[str, bool] = {}
    numbers = []
    for number, images in enumerate(image_keys(rows, processor, cache, "looking for images")):
        new = {key: is_cached for key, is_cached in images if key not in cached}
        cached |= new
        if not all(new.values()):
            numbers.append(number)
    return cached, numbers
