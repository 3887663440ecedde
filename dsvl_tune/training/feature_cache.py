"""The frozen first half of the vision side in a run: made once an image, kept in a store, left out when all is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import lightning as L
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.tensor_cache import TensorCache
from dsvl_tune.core.types import Batch, Prompts
from dsvl_tune.families.base import Plan
from dsvl_tune.families.deepseek_vl.vision_features import (
    Features,
    extractor_digest,
    feature_shapes,
    frozen_features,
    frozen_features_of,
    unload,
)
from dsvl_tune.models.runtime.fsdp import is_sharded

FeatureDtype = Literal["bfloat16", "float32"]
Seen = TypeVar("Seen", bound="Batch | Prompts")


@dataclass
class FeatureExtractor:
    """What `models.vision` makes of pixels without gradient, and the store that holds it.

    Attributes:
        model: the run's. halves: from `frozen_features_of`. store: of its features.
        loaded: whether its weights are in memory.
    """

    model: PreTrainedModel
    halves: dict[str, set[str]]
    store: TensorCache
    loaded: bool = True

    def see(self, batch: Seen, precision: AbstractContextManager[Any]) -> Seen:
        """The batch with features in place of pixels: those that came with it, and those of the pixels, made now.

        All are rounded to the store's dtype, so that a step sees the same whether an image was stored before or not.

        Args:
            batch: as collated. precision: the context that the run's forward passes have.

        Raises:
            UserError: an image is not stored any more and the weights are not in memory.
        """
        made = [batch.features] if batch.features is not None else []
        if batch.pixel_values is not None:
            if not self.loaded:
                raise UserError(
                    f"{', '.join(batch.sources)}: an image there was in the feature store {self.store.root} when the "
                    "run began, and is not any more, or its file has changed. Start the run again with --ckpt_path "
                    "last: the vision towers are then loaded."
                )
            with precision:
                made.insert(
                    0,
                    self.make(batch.pixel_values, batch.high_res_pixel_values, batch.feature_keys),
                )
        if not made:
            return batch
        dtype = self.model.dtype
        features = {name: torch.cat([one[name] for one in made]).to(dtype) for name in self.halves}
        return replace(
            batch, pixel_values=None, high_res_pixel_values=None, features=features, feature_keys=[]
        )

    def make(self, low: Tensor, high: Tensor | None, keys: Sequence[str]) -> Features:
        """The features of pixels, which are stored under their keys."""
        features = frozen_features(self.model, set(self.halves), low, high)
        features = {name: tensor.to(self.store.dtype) for name, tensor in features.items()}
        for i, key in enumerate(keys):
            self.store.put(key, {name: tensor[i] for name, tensor in features.items()})
        return features

    def leave_out(self) -> None:
        """Free the weights: every image of the run is stored."""
        unload(self.model, self.halves)
        self.loaded = False


def open_feature_extractor(
    model: PreTrainedModel,
    plan: Plan,
    root: str,
    dtype: FeatureDtype,
    max_gb: float,
    precision: str,
) -> FeatureExtractor:
    """The first half of a model whose plan is applied, with its store.

    Args:
        model, plan: whatever makes features differ tells their folder apart: weights, settings, precision, dtype.
        root: folder of the store, made if need be. dtype: of what is stored. max_gb: bound on the whole store.
        precision: the trainer's.

    Raises:
        UserError: a tower trains, drops out, or is cut over processes; or the folder cannot be made.
    """
    if is_sharded(model):
        raise UserError(
            "model.feature_cache: with trainer.strategy fsdp2 no process has a whole tower to make features with. "
            "Take strategy ddp, or leave the store out."
        )
    halves = frozen_features_of(plan)
    for name in ("vision_config", "high_res_vision_config"):
        if getattr(getattr(model.config, name, None), "attention_dropout", 0.0) > 0:
            raise UserError(
                f"model.feature_cache: the checkpoint's {name} has attention_dropout, so an image has other features "
                "each time. Set it to 0 there or leave the store out."
            )
    said = f"{extractor_digest(model, halves)} {precision} {dtype}"
    folder = hashlib.sha256(said.encode()).hexdigest()[:32]
    shapes = feature_shapes(model.config, set(halves))
    path = Path(root).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"model.feature_cache: {path} cannot be made ({error.strerror}). Give another folder."
        ) from None
    return FeatureExtractor(
        model, halves, TensorCache(path, folder, shapes, getattr(torch, dtype), int(max_gb * 1e9))
    )


def attach_cache(half: FeatureExtractor, trainer: L.Trainer) -> None:
    """Tell the data of the store; in training, leave the weights out of memory if every image of the run is stored."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if data is None:
        return
    data.features = half.store
    if trainer.state.fn != "fit":
        return
    first = trainer.is_global_zero
    complete = trainer.strategy.broadcast(first and data.all_stored())
    if complete:
        half.leave_out()
    if first:
        found = "has every image: the frozen vision weights are left out of memory"
        missing = "lacks images of this run: they are added as they come, and the vision weights stay in memory"
        print(f"feature store {half.store.root} {found if complete else missing}", flush=True)
