"""`dsvl-tune cache-features --config RECIPE`: what frozen towers make of a recipe's images, before training."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Subset

from dsvl_tune.cli.commands.check_data import set_up
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.files import format_bytes, free_bytes
from dsvl_tune.core.tensor_cache import (
    KEPT_FREE_BYTES,
    TensorCache,
    folder_bytes,
)
from dsvl_tune.core.types import Processor
from dsvl_tune.data.images.missing_features import image_keys, missing_pixels
from dsvl_tune.datamodules.base import Rows
from dsvl_tune.recipe.parser import recipe_parser
from dsvl_tune.recipe.recipe import Recipe
from dsvl_tune.training.feature_cache import FeatureExtractor
from dsvl_tune.training.run.error_messages import keyboard_interrupts
from dsvl_tune.training.run.quiet import quiet_lightning

DESCRIPTION = """\
cache-features: put every image of a recipe through the frozen vision towers, once, and keep what comes out

  dsvl-tune cache-features --config mine.yaml --model.feature_cache features
  dsvl-tune fit            --config mine.yaml --model.feature_cache features

fit then decodes no image and loads no frozen tower. Training, validation, test and retention_set images are stored; those that
are there already are left alone, so a command that was stopped goes on, and several may fill one folder at a time, also
by --trainer.devices. data.num_workers processes decode (0: as many as there are cores). All keys of a recipe can be
given, as with fit; --model.feature_dtype and --model.feature_cache_gb say how, and how much."""


class FeatureFiller(L.LightningModule):
    """Stores the features of images by Lightning's `predict`, which brings devices and precision.

    Args:
        half: with the store. network: that it belongs to.
        rows: of the run. numbers: of the rows that show images which are not stored yet.
        processor: with the store. batch_size: rows whose images pass the towers at once. workers: that decode.
    """

    def __init__(
        self,
        half: FeatureExtractor,
        rows: Rows,
        numbers: list[int],
        processor: Processor,
        batch_size: int,
        workers: int,
    ) -> None:
        super().__init__()
        self.frozen, self.network = half, half.model
        self.rows, self.numbers, self.processor = rows, numbers, processor
        self.batch_size, self.workers = batch_size, workers

    def predict_dataloader(self) -> DataLoader[Any]:
        """This process's share of all rows, whatever each process still found missing."""
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        own = [number for number in self.numbers if number % processes == rank]
        return missing_pixels(Subset(self.rows, own), self.processor, self.batch_size, self.workers)  # type: ignore

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> int:
        """Encode and store; how many images."""
        if batch["pixel_values"] is not None and not self.frozen.store.closed:
            self.frozen.make(
                batch["pixel_values"], batch["high_res_pixel_values"], batch["feature_keys"]
            )
        return len(batch["feature_keys"])

    def on_predict_epoch_end(self) -> None:
        self.trainer.strategy.barrier()


def look(rows: Rows, processor: Processor) -> tuple[dict[str, bool], list[int]]:
    """Whether the features of each distinct image are stored, by key; and the rows that first show one that is not."""
    known: dict[str, bool] = {}
    numbers = []
    for number, found in enumerate(image_keys(rows, processor, "looking for images")):
        new = {key: stored for key, stored in found if key not in known}
        known |= new
        if not all(new.values()):
            numbers.append(number)
    return known, numbers


def check_room(store: TensorCache, missing: int) -> str:
    """What filling will take.

    Raises:
        UserError: the disk has not the room.
    """
    room = max(store.max_bytes - folder_bytes(store.root), 0) // store.entry_bytes
    needed, free = min(missing, room) * store.entry_bytes, free_bytes(store.root) - KEPT_FREE_BYTES
    if needed > free:
        raise UserError(
            f"{store.root}: {missing:,} images of {format_bytes(store.entry_bytes)} need {format_bytes(needed)}, the disk has "
            f"{format_bytes(max(free, 0))} to spare. Make room, give another folder, or bound the store by "
            "--model.feature_cache_gb."
        )
    said = f"{missing:,} to store, {format_bytes(store.entry_bytes)} each, {format_bytes(missing * store.entry_bytes)} in all"
    if room < missing:
        said += f"; {room:,} of them fit into --model.feature_cache_gb {store.max_bytes / 1e9:g}"
    return said


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    recipe = Recipe.parse(recipe_parser("cache-features", DESCRIPTION), arguments)
    since = time.monotonic()
    L.seed_everything(recipe.config.seed_everything, workers=True, verbose=False)
    module, data = recipe.model, recipe.data
    # As many processes as the recipe has, each with whole vision towers.
    trainer = L.Trainer(**{**recipe.trainer, "strategy": "auto", "logger": False})
    if module.feature_cache is None:
        raise UserError(
            "cache-features: no folder to fill. Give one: --model.feature_cache features."
        )
    set_up(data)
    module.trainer = trainer
    module.configure_model()
    half = module.feature_extractor
    assert half is not None and data.processor is not None
    half.model.lm_head = half.model.model.language_model = (
        None  # towers and aligner are all that is needed
    )
    rows, processor = data.every_row(), replace(data.processor, features=half.store)
    known, numbers = look(rows, processor)
    missing = [key for key, stored in known.items() if not stored]
    first = trainer.is_global_zero
    said = check_room(half.store, len(missing))
    if first:
        print(
            f"feature store {half.store.root}: {len(known):,} distinct images, {said}", flush=True
        )
    workers = data.num_workers or os.cpu_count() or 1
    if missing:
        filler = FeatureFiller(half, rows, numbers, processor, data.batch_size, workers)
        with quiet_lightning(), keyboard_interrupts():
            trainer.predict(filler, return_predictions=False)
    if first:
        print(report(half.store, known, time.monotonic() - since))


def report(store: TensorCache, known: dict[str, bool], wall_s: float) -> str:
    """What the store holds of the images, at the end."""
    hits = sum(known.values())
    added = sum(store.has(key) for key, stored in known.items() if not stored)
    left = len(known) - hits - added
    return (
        f"images: {len(known):,} distinct; {hits:,} were stored, {added:,} added"
        + (f", {left:,} NOT stored: {store.closed or 'no room'}" if left else "")
        + f"\nstore: {format_bytes(folder_bytes(store.root / store.folder))} for this recipe, "
        f"{format_bytes(folder_bytes(store.root))} in all; time: {wall_s:.0f} s"
    )
