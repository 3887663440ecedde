"""All keys of a recipe on a parser, from the signatures of the classes that they construct."""

from __future__ import annotations

import lightning as L
from jsonargparse import ArgumentParser

from dsvl_tune.datamodules.base import ConversationDataModule
from dsvl_tune.recipe.run_keys import LINKED_KEYS, add_config_key, add_run_keys
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.run.trainer_keys import TRAINER_DEFAULTS


def add_recipe_keys(parser: ArgumentParser) -> None:
    """Add every key of a recipe to a parser.

    Args:
        parser: Parser of a command; it may have options of its own besides.
    """
    add_config_key(parser)
    add_run_keys(parser)
    parser.add_class_arguments(
        L.Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True
    )
    parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})
    parser.add_class_arguments(FinetuneModule, "model", fail_untyped=False, sub_configs=True)
    parser.add_subclass_arguments(ConversationDataModule, "data", fail_untyped=False, required=True)
    for linked, followed in LINKED_KEYS.items():
        if "init_args" in linked:
            parser.link_arguments(followed, linked)
