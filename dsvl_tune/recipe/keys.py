"""All keys of a recipe on a parser, from the signatures of the classes that they construct."""

from __future__ import annotations

from typing import Any

import lightning as L
from jsonargparse import ArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dsvl_tune.datamodules.base import ConversationDataModule
from dsvl_tune.recipe.run_keys import FACTORY_KEYS, LINKED_KEYS, add_config_key, add_run_keys
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.run.trainer_keys import TRAINER_DEFAULTS


def add_recipe_keys(
    parser: ArgumentParser, model_class: type[FinetuneModule] = FinetuneModule
) -> None:
    """Add every key of a recipe to a parser.

    Args:
        parser: Parser of a command; it may have options of its own besides.
        model_class: Class of the model, whose arguments are the keys of `model`.
    """
    add_config_key(parser)
    add_run_keys(parser)
    parser.add_class_arguments(
        L.Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True
    )
    parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})
    parser.add_class_arguments(
        model_class, "model", fail_untyped=False, sub_configs=True, skip=set(FACTORY_KEYS)
    )
    # The groups of parameters have the rates and the weight decay of `model`.
    options: dict[str, Any] = {"fail_untyped": False, "required": False, "instantiate": False}
    filled_in = {"params", "lr", "weight_decay"}
    parser.add_subclass_arguments(Optimizer, "optimizer", skip=filled_in, **options)
    parser.add_subclass_arguments(
        LRScheduler, "lr_scheduler", skip={"optimizer", "last_epoch"}, **options
    )
    parser.add_subclass_arguments(ConversationDataModule, "data", fail_untyped=False, required=True)
    for linked, followed in LINKED_KEYS.items():
        if "init_args" in linked:
            parser.link_arguments(followed, linked)
