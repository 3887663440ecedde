"""The settings of a run that was started from Python, as its `config.yaml` holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from inspect import isclass, isfunction
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

import dsvl_tune.datamodules
from dsvl_tune.core.errors import UserError
from dsvl_tune.datamodules.base import ConversationDataModule
from dsvl_tune.recipe.recipe import Settings, complete_settings
from dsvl_tune.recipe.run_keys import FACTORY_KEYS
from dsvl_tune.training.module import FinetuneModule


def describe_run(
    model: FinetuneModule,
    data: ConversationDataModule,
    trainer: Mapping[str, Any],
    run_options: Mapping[str, Any],
) -> Settings:
    """Write down the settings of a run as a recipe, so that the command line can repeat it.

    Args:
        model: Model of the run.
        data: Data module of the run. Its seed is the seed of the run.
        trainer: Arguments of Lightning's Trainer. Objects, such as callbacks, cannot be written
            down: a repeated run has to be given them again.
        run_options: Arguments of `dsvl_tune.fit` that are keys of a recipe.

    Raises:
        UserError: An argument of a wrong type, or one that an object does not store.
    """
    plain_trainer = {key: value for key, value in trainer.items() if _is_plain(value)}
    return complete_settings(
        {
            "seed_everything": data.seed,
            "trainer": plain_trainer,
            **_describe_model(model),
            "data": _to_plain(data),
            **run_options,
        }
    )


def _describe_model(model: FinetuneModule) -> dict[str, Any]:
    """The model's class, unless it is `FinetuneModule`, its arguments and its factories."""
    kind = type(model)
    arguments = _arguments(model, kind)
    factories = {key: arguments.pop(key) for key in FACTORY_KEYS}
    model_class = None if kind is FinetuneModule else _class_path(kind)
    return {"model_class": model_class, "model": arguments, **factories}


def _is_plain(value: Any) -> bool:
    """Whether YAML holds the value as it is."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    return value is None or isinstance(value, (bool, int, float, str))


def _to_plain(value: Any) -> Any:
    """Turn a constructor argument into what YAML holds."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    if is_dataclass(value):
        return {field.name: _to_plain(getattr(value, field.name)) for field in fields(value)}
    if _is_plain(value):
        return value
    if isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isclass(value):
        return {"class_path": _class_path(value)}
    if isinstance(value, partial):
        arguments = {key: _to_plain(item) for key, item in value.keywords.items()}
        return {"class_path": _class_path(value.func), "init_args": arguments}
    kind = type(value)
    return {"class_path": _class_path(kind), "init_args": _arguments(value, kind)}


def _class_path(kind: Any) -> str:
    """Return the import path of a class or function, the short one of our data modules."""
    name: str = kind.__qualname__
    if getattr(dsvl_tune.datamodules, name, None) is kind:
        return f"dsvl_tune.datamodules.{name}"
    return f"{kind.__module__}.{name}"


def _arguments(instance: Any, kind: type) -> dict[str, Any]:
    """Collect the arguments that an object was constructed with.

    Lightning's modules may keep them in `hparams`; other objects store them under their names.

    Args:
        instance: The object.
        kind: Its class, or the base class whose arguments are wanted.

    Raises:
        UserError: The object does not store one of them.
    """
    arguments = {}
    for name in ArgumentParser().add_class_arguments(kind, fail_untyped=False):
        arguments[name] = _to_plain(_stored_argument(instance, name))
    return arguments


def _stored_argument(instance: Any, name: str) -> Any:
    """Look up a constructor argument in `hparams`, `_name` or `name`, in this order."""
    for place, key in (
        (getattr(instance, "hparams", {}), name),
        (vars(instance), f"_{name}"),
        (vars(instance), name),
    ):
        if key in place:
            return place[key]
    kind = type(instance).__name__
    raise UserError(
        f"{kind}: its constructor argument {name!r} is not stored, so the run could not be "
        f"repeated. Store it as self.{name}."
    )
