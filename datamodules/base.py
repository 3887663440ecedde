"""The data module that all others build on: rows of conversations in, batches and prompts out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Processor, RenderMode
from dsvl_tune.core.storage.tensor_cache import TensorCache
from dsvl_tune.data.encoding.batches import make_batch
from dsvl_tune.data.encoding.collate import normalize_images
from dsvl_tune.data.encoding.tokenize import OnOverflow
from dsvl_tune.data.images.loader import ImageLoader
from dsvl_tune.data.images.missing_features import image_keys
from dsvl_tune.data.images.padded_cache import padded_image_cache
from dsvl_tune.data.rows import Rows
from dsvl_tune.data.sampling.batch_sampler import BatchSampler
from dsvl_tune.data.sampling.epoch_sampler import EpochSampler
from dsvl_tune.data.sampling.stream_sampler import StreamSampler
from dsvl_tune.data.validation.inspect import row_lengths
from dsvl_tune.data.validation.row_stats import RowInspector, inspect_outline
from dsvl_tune.evaluation.metrics import Metric
from dsvl_tune.families import open_checkpoint

from .held_out_module import HeldOutDataModule
from .held_out_sets import HeldOutFile, check_held_out
from .resumable_loader import ResumableLoader, check_endless, data_checksums

SPLITS = ("train", "validation", "test")


class ConversationDataModule(HeldOutDataModule):
    """Serves rows of conversations. A subclass says which, by `rows`.

    Args:
        checkpoint: checkpoint whose tokenizer and image rule are used; the same as the model's.
        batch_size: rows of a micro-batch on each process; a message tree is one row.
        eval_batch_size: prompts that are answered at a time.
        num_workers: processes that read and encode next to the training process; 0 does it there.
        seed: seed of the order of the training rows.
        max_tokens: longest conversation, image tokens counted; null takes the checkpoint's context.
        on_overflow: what happens to a longer one: "error", or "truncate", which drops its last
            pairs of question and answer, then the end of the answer; no question and no image is
            cut.
        system_prompt: of conversations without one; null takes the checkpoint's, "" has none.
        pack_tokens: the rows of a micro-batch are packed into fewer rows of up to so many tokens,
            which do not see each other. This saves padding; what a step learns stays the same.
            null packs rows up to the longest, where that saves a quarter of the tokens.
        max_tiles: most tiles that an image is cut into, for families that cut images (DeepSeek-VL2:
            up to 9); null leaves it to the checkpoint. Fewer tiles take fewer tokens.
        pixel_cache_gb: bound on the cache of padded and scaled images (3.1 MB each at 1024 px),
            so that none is decoded and scaled twice; 0 caches none. It pays where rows or epochs
            show the same images.
        metrics: what scores generated answers: names or class paths; the first picks the best
            checkpoint unless `monitor` names another figure. null chooses them by what the
            references are (JSON, numbers, one of few answers, text) and says so. A row's own
            `metric` takes their place for that row.
        heldout: further held-out sets by name, scored before, during and after training and logged
            as `val/NAME/METRIC`: a file of questions, or a text (.txt) whose perplexity is
            measured. A mapping gives a file with its `path`, `metrics`, `images_root`, `format`.
        eval_rows: questions of each held-out set that are answered at a validation during
            training, chosen once by the seed; null answers all.
        eval_seconds: seconds of a validation, split between the held-out sets; questions that are
            left over are not answered, and the figure is of fewer. null sets no limit.
    """

    def __init__(
        self,
        *,
        checkpoint: str = "embedded",
        batch_size: int = 8,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 1,
        max_tokens: int | None = None,
        on_overflow: OnOverflow = "error",
        system_prompt: str | None = None,
        pack_tokens: int | None = None,
        max_tiles: int | None = None,
        pixel_cache_gb: float = 0.0,
        metrics: Sequence[Metric | str] | None = None,
        heldout: Mapping[str, str | HeldOutFile] | None = None,
        eval_rows: int | None = None,
        eval_seconds: float | None = None,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.max_tokens = max_tokens
        self.on_overflow: OnOverflow = on_overflow
        self.system_prompt = system_prompt
        self.pack_tokens = pack_tokens
        self.max_tiles = max_tiles
        self.pixel_cache_gb = pixel_cache_gb
        self._metrics = metrics
        self.heldout = heldout
        self.eval_rows = eval_rows
        self.eval_seconds = eval_seconds
        self.processor: Processor | None = None
        self.image_loader = ImageLoader()
        self.answered: Collection[int] = ()  # numbers of test questions that predict leaves out

    # What a subclass serves.

    @abstractmethod
    def rows(self, split: str) -> Rows:
        """Rows of "train", "validation" or "test"; () for a split without any."""

    def unchecked(self) -> dict[str, Rows]:
        """The rows of each split before any is held out or joined: what `check-data` reads."""
        return {split: self.rows(split) for split in SPLITS}

    def retention_sets(self) -> dict[str, Rows]:
        """Held-out rows outside the domain, by name, scored to measure forgetting."""
        return {}

    def row_lengths(self) -> NDArray[np.int64]:
        """Tokens of each training row: [R] int64; measured unless validation has done so."""
        rows = self.rows("train")
        if rows.lengths is not None:
            return rows.lengths
        return row_lengths(rows, self.inspector("training", decode=False))

    def skip_image_checks(self) -> None:
        """Let `setup` not decode the images: they were decoded before."""

    # What others attach.

    def take_settings(self, other: ConversationDataModule) -> None:
        """Become a source of another data module: take its trainer, processor and settings."""
        self.trainer = other.trainer
        self.processor = other.processor
        self.seed = other.seed
        self.max_tokens = other.max_tokens
        self.on_overflow = other.on_overflow

    def use_feature_cache(self, cache: TensorCache) -> None:
        """Take cached features in place of images where there are any."""
        self.image_loader = replace(self.image_loader, feature_cache=cache)

    # The checkpoint's processor.

    def setup(self, stage: str) -> None:
        """Read the checkpoint's processor, and check the held-out sets that the recipe names.

        Raises:
            UserError: names file, row and field.
        """
        self.read_processor()
        if stage in ("fit", "validate") and self.heldout:
            sets = {name: self.held_out_sets[name] for name in self.heldout}
            is_first = self.trainer is None or self.trainer.is_global_zero
            inspector = self.inspector("generation", decode=True)
            check_held_out(sets, inspector if is_first else inspect_outline)

    def read_processor(self) -> Processor:
        """The checkpoint's processor, read once.

        Raises:
            UserError: there is no such checkpoint, or a setting does not fit it.
        """
        if self.processor is None:
            processor = open_checkpoint(self.checkpoint).processor
            self.check_settings(processor)
            if self.system_prompt is not None:
                processor = replace(processor, default_system=self.system_prompt)
            if self.max_tiles is not None:
                processor = processor.family.limit_tiles(processor, self.max_tiles)
            self.processor = processor
        return self.processor

    def check_settings(self, processor: Processor) -> None:
        """Raise unless the token limits can be kept."""
        if self.max_tokens is not None and self.max_tokens > processor.context_tokens:
            raise UserError(
                f"data.max_tokens: {self.max_tokens}, but checkpoint {self.checkpoint} reads at "
                f"most {processor.context_tokens} tokens. Lower it or leave it out."
            )
        if self.pack_tokens is not None and self.pack_tokens < 1:
            raise UserError(
                f"data.pack_tokens: {self.pack_tokens}, expected the tokens of a row. "
                "null packs none."
            )

    def inspector(
        self, mode: RenderMode, *, decode: bool, hash_images: bool = False
    ) -> RowInspector:
        """What validates rows with this module's settings.

        Args:
            mode: "training" for rows that are trained on, "generation" for prompts.
            decode: whether images are decoded.
            hash_images: whether images are hashed.
        """
        processor = self.read_processor()
        return RowInspector(
            processor,
            mode,
            self.max_tokens,
            self.on_overflow,
            decode=decode,
            hash_images=hash_images,
        )

    # Training rows.

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches in the order of `sampler`, from the trainer's position on.

        Raises:
            UserError: the rows have no end and the trainer needs one.
        """
        rows = self.rows("train")
        sampler = self.sampler(rows)
        if sampler.epoch_batches is None and self.trainer is not None:
            check_endless(self.trainer)
        loader = ResumableLoader(
            rows,
            batch_sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=self.encoding(self.batching(make_batch)),
        )
        held_out = [self.rows(split) for split in SPLITS[1:]]
        sets = [self.held_out_sets[name] for name in self.heldout or {}]
        held_out += [one.rows for one in sets]
        texts = [one.text for one in sets if one.text is not None]
        loader.checksums = data_checksums(rows, [rows for rows in held_out if len(rows)], texts)
        return loader

    def sampler(self, rows: Rows) -> BatchSampler:
        """Which of the training rows come when."""
        options = self.sampler_options()
        if rows.stream is not None:
            return StreamSampler(rows.stream, self.batch_size, **options)
        return EpochSampler(len(rows), self.batch_size, seed=self.seed, **options)

    def sampler_options(self) -> dict[str, Any]:
        """This process and its position, as `BatchSampler` takes them."""
        rank, world_size = self.process()
        return {"rank": rank, "world_size": world_size, "position": self.trained_batches}

    def process(self) -> tuple[int, int]:
        """Rank of this process, and the number of processes that read different data."""
        options = self.trainer.distributed_sampler_kwargs if self.trainer else None
        return (options["rank"], options["num_replicas"]) if options else (0, 1)

    def trained_batches(self) -> int:
        """Micro-batches trained since the run began, also before it was stopped and resumed.

        Lightning saves this count in every checkpoint, so there is one position, and what a loader
        fetched ahead does not change it.
        """
        if self.trainer is None:
            return 0
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        trained: int = progress.total.processed  # type: ignore[attr-defined]
        return trained

    # Cached features.

    def every_row(self) -> Dataset[Any]:
        """All rows that a run may show: those of every split, then of the held-out sets.

        Raises:
            UserError: some rows are streamed, so that nobody knows them all.
        """
        held_out = [one.rows for one in self.held_out_sets.values()]
        sets = [*(self.rows(split) for split in SPLITS), *held_out]
        if any(rows.num_rows is None for rows in sets):
            raise UserError(
                "model.feature_cache: with data.streaming the images of the run are not known "
                "beforehand. Leave one of the two out."
            )
        return ConcatDataset([rows for rows in sets if len(rows)])

    def has_all_features(self) -> bool:
        """Whether the features of every image of `every_row` are cached."""
        cache = self.image_loader.feature_cache
        assert cache is not None, "use_feature_cache comes first"
        rows: Any = self.every_row()
        found = image_keys(rows, self.read_processor(), cache, "looking for cached features")
        return all(is_cached for images in found for _, is_cached in images)

    # What a loader's worker does.

    def encoding(self, make: Callable[..., Any]) -> Callable[[list[Any]], Any]:
        """`make` with this module's settings: what a worker does with its rows.

        Args:
            make: `make_batch`, `make_share` or `make_prompts`.
        """
        assert self.processor is not None, "setup comes first"
        image_cache = None
        if self.pixel_cache_gb:
            image_cache = padded_image_cache(self.processor, self.pixel_cache_gb)
        return partial(
            make,
            processor=self.processor,
            max_tokens=self.max_tokens,
            on_overflow=self.on_overflow,
            loader=replace(self.image_loader, image_cache=image_cache),
        )

    def batching(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """`make_batch` or `make_share` with this module's length of a packed row."""
        return partial(make, pack_tokens=self.pack_tokens)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalize pixels that came as levels, on the device."""
        return normalize_images(batch, self.read_processor())
