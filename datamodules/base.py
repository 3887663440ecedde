"""The data module that all others build on: conversations in, batches and prompts out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import lightning as L
import torch
from torch.utils.data import ConcatDataset, DataLoader

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.tensor_cache import TensorCache
from dsvl_tune.core.types import Conversation, Processor
from dsvl_tune.data.encoding.batches import make_batch, make_prompts, make_share
from dsvl_tune.data.encoding.collate import normalize_images
from dsvl_tune.data.encoding.tokenize import OnOverflow
from dsvl_tune.data.images.loader import ImageLoader
from dsvl_tune.data.images.missing_features import image_keys
from dsvl_tune.data.images.padded_cache import padded_image_cache
from dsvl_tune.data.sampling.epoch_sampler import StepSampler
from dsvl_tune.data.sampling.mixture_sampler import MixedSampler
from dsvl_tune.evaluation.majority_baseline import majority_baseline
from dsvl_tune.evaluation.metrics import Metric, find_metrics
from dsvl_tune.families.deepseek_vl.processor import load_processor
from dsvl_tune.models.checkpoint.load import resolve_checkpoint

Rows = Sequence[list[Conversation]]
"""Each row is a list of conversations that show the same images: one message tree. Plain data has lists of one."""


class ConversationDataModule(L.LightningDataModule):
    """Serves rows of conversations. A subclass says which.

    Args:
        checkpoint: whose tokenizer and image rule are used; the same as the model's.
        batch_size: rows of a micro-batch on each process; a message tree is one row.
        eval_batch_size: prompts that are answered at once.
        num_workers: processes that read and encode beside the training one; 0 does it there.
        seed: of the order of the training rows.
        max_tokens: longest conversation, image tokens counted; null takes the checkpoint's context.
        on_overflow: what becomes of a longer one: "error", or "truncate", which drops its last pairs of question and
            answer, then the end of the answer; no question and no image is cut in two.
        system_prompt: of conversations that bring none; null takes the checkpoint's, "" has none.
        pack_tokens: the rows of a micro-batch are packed into fewer rows of up to so many tokens, which do not see each
            other; only padding is saved, what a step learns stays the same. null packs none.
        metrics: what scores generated answers: names or class paths; the first picks the best
            checkpoint unless `monitor` names another figure.
        pixel_cache_gb: bound on padded and scaled pictures kept in the cache folder (3.1 MB each at 1024 px), so that
            none is decoded and scaled twice; 0 keeps none. It pays where rows or epochs show the same pictures.
    """

    def __init__(
        self,
        checkpoint: str = "embedded",
        batch_size: int = 8,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 1,
        max_tokens: int | None = None,
        on_overflow: OnOverflow = "error",
        system_prompt: str | None = None,
        pack_tokens: int | None = None,
        pixel_cache_gb: float = 0.0,
        metrics: Sequence[Metric | str] = ("relaxed_accuracy",),
    ) -> None:
        super().__init__()
        self._metrics = metrics
        self.verify_images = False  # whether set-up decodes all images, where a subclass can
        self.checkpoint = checkpoint
        self.batch_size, self.eval_batch_size, self.num_workers = (
            batch_size,
            eval_batch_size,
            num_workers,
        )
        self.seed = seed
        self.max_tokens, self.on_overflow = max_tokens, on_overflow
        self.system_prompt, self.pack_tokens, self.pixel_cache_gb = (
            system_prompt,
            pack_tokens,
            pixel_cache_gb,
        )
        self.processor: Processor | None = None
        self.image_loader = ImageLoader()

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """What scores generated answers.

        Raises:
            UserError: an unknown name, or two metrics of one name.
        """
        return find_metrics(self._metrics)

    @abstractmethod
    def rows(self, split: str) -> Rows:
        """Rows of "train", "validation" or "test". Training rows are asked for one by one, so they may be made then."""

    def unchecked(self) -> dict[str, Rows]:
        """The rows of each split as they are before anything is held out or joined: what `check-data` reads."""
        return {split: self.rows(split) for split in ("train", "validation", "test")}

    def identity(self, split: str) -> str | None:
        """Equal for equal rows of a split, for what is cached about them; None where nothing tells."""
        return None

    def checksum(self) -> int:
        """Another one if the training rows are others than a run was stopped with; 0 where the settings tell it."""
        return 0

    def retention_sets(self) -> dict[str, Rows]:
        """Other held-out sets by name, asked to see what the model forgets."""
        return {}

    def setup(self, stage: str) -> None:
        """Read the checkpoint's processor."""
        self.read_processor()

    def read_processor(self) -> Processor:
        """The checkpoint's processor, read once.

        Raises:
            UserError: no such checkpoint, or `max_tokens` is beyond its context.
        """
        if self.processor is not None:
            return self.processor
        processor = load_processor(resolve_checkpoint(self.checkpoint))
        if self.max_tokens is not None and self.max_tokens > processor.context_tokens:
            raise UserError(
                f"data.max_tokens: {self.max_tokens}, but checkpoint {self.checkpoint} reads at most "
                f"{processor.context_tokens} tokens. Lower it or leave it out."
            )
        if self.pack_tokens is not None and self.pack_tokens < 1:
            raise UserError(
                f"data.pack_tokens: {self.pack_tokens}, expected tokens of a row. null packs none."
            )
        if self.system_prompt is not None:
            processor = replace(processor, default_system=self.system_prompt)
        self.processor = processor
        return processor

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches in the order of `sampler`, from the trainer's position on."""
        return self.training_loader(self.rows("train"), StepLoader)

    def training_loader(self, rows: Rows, kind: type[StepLoader]) -> StepLoader:
        """A loader of training rows, with this module's settings."""
        loader = kind(
            rows,  # type: ignore[arg-type]  # any sequence serves
            batch_sampler=self.sampler(rows),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=self.encoding(self.batching(make_batch)),
        )
        loader.checksum = self.checksum()
        return loader

    def sampler(self, rows: Rows) -> StepSampler | MixedSampler:
        """Which of the training rows come when."""
        rank, world_size = self.share()
        return StepSampler(
            len(rows), self.batch_size, self.seed, rank, world_size, self.trained_batches
        )

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Two loaders over "validation": batches for the loss, prompts to answer."""
        rows = self.rows("validation")
        if not rows:
            return []
        counted = partial(self.batching(make_share), share=self.share())
        return [
            self.loader(list(enumerate(rows)), self.batch_size, counted),
            self.prompt_loader(rows),
        ]

    def test_dataloader(self) -> DataLoader[Any]:
        """Prompts over "test"."""
        return self.prompt_loader(self.rows("test"))

    def predict_dataloader(self) -> DataLoader[Any]:
        """Prompts over "test"."""
        return self.test_dataloader()

    def retention_dataloaders(self) -> dict[str, DataLoader[Any]]:
        """Prompts over each of `retention_sets`."""
        return {name: self.prompt_loader(rows) for name, rows in self.retention_sets().items()}

    def every_row(self) -> Rows:
        """All that a run may show: every split's rows, then the retention_sets'."""
        splits = [
            *(self.rows(split) for split in ("train", "validation", "test")),
            *self.retention_sets().values(),
        ]
        return ConcatDataset([rows for rows in splits if len(rows)])  # type: ignore

    def use_feature_cache(self, cache: TensorCache) -> None:
        """Take cached features in place of images where there are any."""
        self.image_loader = replace(self.image_loader, feature_cache=cache)

    def has_all_features(self) -> bool:
        """Whether the features of every image of `every_row` are cached."""
        cache = self.image_loader.feature_cache
        assert cache is not None, "use_feature_cache comes first"
        rows = image_keys(
            self.every_row(), self.read_processor(), cache, "looking for cached features"
        )
        return all(is_cached for images in rows for _, is_cached in images)

    def majority_baseline(self) -> dict[str, float]:
        """Figures of the best constant answers to "test", counted on training rows."""
        return majority_baseline([self.rows("train")], self.rows("test"), self.metrics)

    def prompt_loader(self, rows: Rows) -> DataLoader[Any]:
        """One prompt a conversation, in order."""
        conversations = [conversation for row in rows for conversation in row]
        return self.loader(list(enumerate(conversations)), self.eval_batch_size, make_prompts)

    def loader(self, rows: list[Any], batch_size: int, make: Callable[..., Any]) -> DataLoader[Any]:
        """Rows in order, every process its share; the first rows are repeated until all shares are equally long."""
        rank, world_size = self.share()
        total = -(-len(rows) // world_size) * world_size
        return DataLoader(
            [rows[i % len(rows)] for i in range(rank, total, world_size)],  # type: ignore[arg-type]
            batch_size=batch_size,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            collate_fn=self.encoding(make),
        )

    def encoding(self, make: Callable[..., Any]) -> Callable[[list[Any]], Any]:
        """`make_batch` or `make_prompts` with this module's settings: what a worker does with its rows."""
        assert self.processor is not None, "setup comes first"
        image_cache = (
            padded_image_cache(self.processor, self.pixel_cache_gb) if self.pixel_cache_gb else None
        )
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
        """Normalise what came as levels, on the device."""
        return normalize_images(batch, self.read_processor())

    def share(self) -> tuple[int, int]:
        """(rank, world size) of the processes that read different data."""
        shares = self.trainer.distributed_sampler_kwargs if self.trainer else None
        return (shares["rank"], shares["num_replicas"]) if shares else (0, 1)

    def trained_batches(self) -> int:
        """Micro-batches trained since the run began, also before it was stopped and resumed.

        Lightning saves this count in every checkpoint, so there is one position, and fetching ahead cannot falsify it.
        """
        if self.trainer is None:
            return 0
        trained: int = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        return trained


class StepLoader(DataLoader[Any]):
    """A loader whose checkpoint says which data the position in it belongs to."""

    batch_sampler: StepSampler | MixedSampler
    checksum: int

    def state_dict(self) -> dict[str, Any]:
        """What the rows of a position depend on."""
        return {**self.batch_sampler.state(), "content of the rows (its checksum)": self.checksum}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Raise unless the run is resumed on the data that it was stopped on.

        Raises:
            UserError: other rows, or another seed, mixture or size of a micro-batch over all processes.
        """
        for key, here in StepLoader.state_dict(self).items():
            if state.get(key) != here:
                raise UserError(
                    f"resuming: the run was stopped with {key} {state.get(key)}, now it is {here}, so its "
                    "position means other rows. Resume with the same data and settings, or begin anew: --resume never."
                )
