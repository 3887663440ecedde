"""`dsvl-tune cache-features --config RECIPE`: compute the frozen features of a recipe's images."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from dsvl_tune.core.errors import UserError
from dsvl_tune.recipe.command import parse_recipe

if TYPE_CHECKING:
    from dsvl_tune.core.storage.tensor_cache import TensorCache
    from dsvl_tune.recipe.recipe import Recipe

DESCRIPTION = """\
cache-features: encode every image of a recipe once by the frozen vision towers, and keep the result

  dsvl-tune cache-features --config mine.yaml --model.feature_cache features
  dsvl-tune fit            --config mine.yaml --model.feature_cache features

fit then decodes no image and loads no frozen tower. Images of training, validation, test and the
retention sets are cached. Those that are cached already are skipped, so an interrupted command
continues, and several may fill one folder at a time, also by --trainer.devices. data.num_workers
processes decode images (0: one for each core). All keys of a recipe can be given, as with fit;
--model.feature_dtype and --model.feature_cache_gb say how, and how much."""


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    recipe = parse_recipe("cache-features", DESCRIPTION, arguments)

    from dsvl_tune.training.run.quiet import quiet_lightning

    with quiet_lightning():
        fill_cache(recipe)


def fill_cache(recipe: Recipe) -> None:
    """Encode every image of a recipe that is not cached yet.

    Args:
        recipe: The parsed recipe.

    Raises:
        UserError: The recipe names no cache, or the disk has not enough space.
    """
    import lightning as L

    from dsvl_tune.cli.data_report import set_up
    from dsvl_tune.training.feature_filler import FeatureFiller, find_missing
    from dsvl_tune.training.run.error_messages import keyboard_interrupts
    from dsvl_tune.training.run.threads import use_free_cores
    from dsvl_tune.training.run.trainer import feature_trainer
    from dsvl_tune.training.run.trainer_keys import check_trainer

    begin = time.monotonic()
    check_trainer(recipe.trainer, recipe.data.num_workers)
    module, data = recipe.model, recipe.data
    if module.feature_cache is None:
        raise UserError(
            "cache-features: no folder to fill. Give one: --model.feature_cache features."
        )
    L.seed_everything(recipe.config.seed_everything, workers=True, verbose=False)
    trainer = feature_trainer(recipe.trainer)
    use_free_cores(trainer.num_devices)
    set_up(data)
    extractor = module.build_feature_extractor(str(trainer.precision))
    rows, processor, cache = data.every_row(), data.read_processor(), extractor.cache
    cached, numbers = find_missing(rows, processor, cache)
    missing = sum(not is_cached for is_cached in cached.values())
    plan = check_space(cache, missing)
    if trainer.is_global_zero:
        print(f"feature cache {cache.root}: {len(cached):,} distinct images, {plan}", flush=True)
    filler = FeatureFiller(
        extractor,
        rows,
        numbers,
        processor,
        batch_size=data.batch_size,
        num_workers=data.num_workers or os.cpu_count() or 1,
    )
    if missing:
        with keyboard_interrupts():
            trainer.predict(filler, return_predictions=False)
    if trainer.is_global_zero:
        print(report(cache, cached, time.monotonic() - begin))


def check_space(cache: TensorCache, missing: int) -> str:
    """What filling the cache will take, in words.

    Args:
        cache: to fill.
        missing: number of images to add.

    Raises:
        UserError: the disk has not enough space.
    """
    from dsvl_tune.core.storage.files import format_bytes, free_bytes
    from dsvl_tune.core.storage.tensor_cache import KEPT_FREE_BYTES, folder_bytes

    capacity = max(cache.max_bytes - folder_bytes(cache.root), 0) // cache.entry_bytes
    needed = min(missing, capacity) * cache.entry_bytes
    free = free_bytes(cache.root) - KEPT_FREE_BYTES
    each = format_bytes(cache.entry_bytes)
    if needed > free:
        raise UserError(
            f"{cache.root}: {missing:,} images of {each} need {format_bytes(needed)}, the disk has "
            f"{format_bytes(max(free, 0))} to spare. Free some, give another folder, or limit the "
            "cache by --model.feature_cache_gb."
        )
    total = format_bytes(missing * cache.entry_bytes)
    plan = f"{missing:,} to add, {each} each, {total} in all"
    if capacity < missing:
        limit = f"{cache.max_bytes / 1e9:g}"
        plan += f"; {capacity:,} of them fit into --model.feature_cache_gb {limit}"
    return plan


def report(cache: TensorCache, cached: dict[str, bool], wall_s: float) -> str:
    """What the cache holds of the images, at the end.

    Args:
        cache: that was filled.
        cached: whether each image, by key, was cached at the beginning.
        wall_s: time taken.
    """
    from dsvl_tune.core.storage.files import format_bytes
    from dsvl_tune.core.storage.tensor_cache import folder_bytes

    hits = sum(cached.values())
    added = sum(cache.has(key) for key, was_cached in cached.items() if not was_cached)
    left = len(cached) - hits - added
    images = f"images: {len(cached):,} distinct; {hits:,} were cached, {added:,} added"
    if left:
        images += f", {left:,} NOT cached: {cache.closed or 'no space'}"
    own = format_bytes(folder_bytes(cache.root / cache.folder))
    total = format_bytes(folder_bytes(cache.root))
    return f"{images}\ncache: {own} for this recipe, {total} in all; time: {wall_s:.0f} s"
