"""Feature caching: compute the frozen vision features of an image once and keep them on disk.

If every image of a run is cached, the vision towers are unloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import lightning as L
import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import Family, Plan, part_of
from dsvl_tune.core.storage.tensor_cache import TensorCache
from dsvl_tune.core.types import Batch, Prompts
from dsvl_tune.families import family_of_model
from dsvl_tune.models.runtime.fsdp import is_sharded

FeatureDtype = Literal["bfloat16", "float32"]
BatchT = TypeVar("BatchT", bound=Batch | Prompts)
Features = dict[str, Tensor]


@dataclass
class FeatureExtractor:
    """Computes the features that a feature cache keeps.

    Attributes:
        model: of the run.
        family: of the model.
        producers: names of the features -> the model parts that compute each, see
            `Family.cacheable_features`.
        cache: where the features are kept.
        loaded: whether the weights of these parts are in memory.
    """

    model: PreTrainedModel
    family: Family
    producers: dict[str, set[str]]
    cache: TensorCache
    loaded: bool = True

    @property
    def parts(self) -> set[str]:
        """The model parts that features are computed with."""
        return set().union(*self.producers.values())

    def with_features(self, batch: BatchT, precision: AbstractContextManager[Any]) -> BatchT:
        """Replace vision inputs by features: those from the cache, and those computed now.

        All are rounded to the dtype of the cache, so a step has the same input whether an image was
        cached before or not.

        Args:
            batch: with normalized vision inputs.
            precision: context of the run's forward passes.

        Raises:
            UserError: an image is no longer cached, and the weights are not in memory.
        """
        parts: list[Mapping[str, Tensor]] = []
        if batch.vision_inputs:
            if not self.loaded:
                raise UserError(
                    f"{', '.join(batch.sources)}: an image was in the feature cache "
                    f"{self.cache.root} when the run began, and is not any more, or its file has "
                    "changed. Start the run again with --ckpt_path last: the vision towers are "
                    "then loaded."
                )
            with precision:
                parts += self.compute(batch.vision_inputs, batch.feature_keys)
        if batch.features:
            parts.append(batch.features)
        if not parts:
            return batch
        features = {
            name: torch.cat([part[name] for part in parts]).to(self.model.dtype)
            for name in self.producers
        }
        return replace(batch, vision_inputs={}, features=features, feature_keys=[])

    def compute(
        self, vision_inputs: Mapping[str, Tensor], cache_keys: Sequence[str]
    ) -> list[Features]:
        """Compute the features of images and add them to the cache.

        Args:
            vision_inputs: of I images, normalized.
            cache_keys: of each image; [] adds none.

        Returns:
            Of each image, by name [C, ...] in the dtype of the cache.
        """
        computed = self.family.compute_features(self.model, set(self.producers), vision_inputs)
        images = [
            {name: tensor.to(self.cache.dtype) for name, tensor in features.items()}
            for features in computed
        ]
        for key, features in zip(cache_keys, images, strict=False):
            self.cache.put(key, features)
        return images

    def drop_language_model(self) -> None:
        """Free the language model: computing features does not need it."""
        self.model.lm_head = None
        self.model.model.language_model = None

    def unload(self) -> None:
        """Free the weights of the parts that nothing but computing features needs."""
        needed = self.family.finishing_parts(set(self.producers))
        for name, _ in list(self.model.named_parameters()):
            if part_of(name, self.family.parts) in self.parts - needed:
                module, _, parameter = name.rpartition(".")
                setattr(self.model.get_submodule(module), parameter, None)
        self.loaded = False


def open_feature_extractor(
    model: PreTrainedModel,
    plan: Plan,
    root: str,
    dtype: FeatureDtype,
    max_gb: float,
    precision: str,
) -> FeatureExtractor:
    """The feature extractor of a run, with its cache.

    Whatever makes features differ separates their folders below `root`: weights, settings,
    precision, dtype.

    Args:
        model: whose plan is applied.
        plan: of the run.
        root: folder of the cache, created if missing.
        dtype: of the cached features.
        max_gb: bound on the whole cache, in GB.
        precision: of the trainer.

    Raises:
        UserError: a vision tower trains, has dropout, or is sharded; or the folder cannot be
            created.
    """
    if is_sharded(model):
        raise UserError(
            "model.feature_cache: with trainer.strategy fsdp2 no process has a whole vision tower "
            "to compute features with. Use strategy ddp, or set model.feature_cache to null."
        )
    family = family_of_model(model)
    producers = family.cacheable_features(plan)
    for name, config in vision_configs(model.config).items():
        if getattr(config, "attention_dropout", 0.0) > 0:
            raise UserError(
                f"model.feature_cache: {name} of the checkpoint has attention_dropout, so the "
                "features of an image differ each time. Set it to 0 there, or set "
                "model.feature_cache to null."
            )
    path = Path(root).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"model.feature_cache: {path} cannot be created ({error.strerror}). Give another "
            "folder."
        ) from None
    identity = f"{extractor_digest(model, producers)} {precision} {dtype}"
    cache = TensorCache(
        path,
        hashlib.sha256(identity.encode()).hexdigest()[:32],
        family.feature_shapes(model.config, set(producers)),
        getattr(torch, dtype),
        int(max_gb * 1e9),
    )
    return FeatureExtractor(model, family, producers, cache)


def vision_configs(config: PretrainedConfig) -> dict[str, PretrainedConfig]:
    """The parts of a configuration that are not the language model's, by name."""
    names = [name for name in type(config).sub_configs if name != "text_config"]
    return {name: getattr(config, name) for name in names}


def extractor_digest(model: PreTrainedModel, producers: Mapping[str, set[str]]) -> str:
    """Changes whenever features would: with the bytes of the weights, settings, or transformers."""
    parts = set().union(*producers.values())
    family_parts = family_of_model(model).parts
    tensors = {
        name: parameter
        for name, parameter in model.named_parameters()
        if part_of(name, family_parts) in parts
    }
    with ThreadPoolExecutor() as threads:  # hashing releases the interpreter's lock
        digests = dict(zip(tensors, threads.map(tensor_digest, tensors.values()), strict=True))
    settings = [config.to_dict() for config in vision_configs(model.config).values()]
    identity = [sorted(producers), digests, settings, transformers.__version__]
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """Of shape, dtype and bytes."""
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(flat.data).hexdigest()}"


def connect_feature_cache(extractor: FeatureExtractor, trainer: L.Trainer) -> None:
    """Give the data module the cache; for training, unload the towers if every image is cached."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if data is None:
        return
    data.use_feature_cache(extractor.cache)
    if trainer.state.fn != "fit":
        return
    first = trainer.is_global_zero
    complete = trainer.strategy.broadcast(first and data.has_all_features())
    if complete:
        extractor.unload()
    if first:
        found = "has every image: the vision towers are not kept in memory"
        missing = (
            "is incomplete: missing features are computed during training; the vision towers stay "
            "loaded"
        )
        print(f"feature cache {extractor.cache.root} {found if complete else missing}", flush=True)
