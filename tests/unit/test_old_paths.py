"""Import paths of release 0.1 that recipes and scripts may contain still work."""

from __future__ import annotations

import importlib

import pytest

DATA_MODULES = {
    "base": ["ConversationDataModule"],
    "charts": ["ChartsDataModule"],
    "instruct": ["InstructDataModule"],
    "mixture": ["MixtureDataModule"],
    "published": [
        "CaptionsDataModule",
        "ChartQADataModule",
        "DocVQADataModule",
        "ScienceQADataModule",
        "TextVQADataModule",
    ],
    "scenes": ["ScenesDataModule"],
}
PATHS = [
    *(
        (f"dsvl_tune.datamodules.{module}", name)
        for module in DATA_MODULES
        for name in DATA_MODULES[module]
    ),
    *(("dsvl_tune.datamodules", name) for names in DATA_MODULES.values() for name in names),
    ("dsvl_tune.training.module", "FinetuneModule"),
]
MOVED = [
    ("dsvl_tune.models.adapters", "apply_plan"),
    ("dsvl_tune.models.adapters", "load_trained"),
    ("dsvl_tune.models.adapters", "save_trained"),
    ("dsvl_tune.schema", "Conversation"),
    ("dsvl_tune.schema", "ImageRef"),
    ("dsvl_tune.schema", "Turn"),
    ("dsvl_tune.schema", "UserError"),
]


@pytest.mark.parametrize(("module", "name"), PATHS)
def test_paths_that_stay(module: str, name: str) -> None:
    assert isinstance(getattr(importlib.import_module(module), name), type)


@pytest.mark.parametrize(("module", "name"), MOVED)
def test_moved_paths_warn_and_give_the_same_object(module: str, name: str) -> None:
    with pytest.warns(FutureWarning, match=f"{module} is now"):
        old = importlib.reload(importlib.import_module(module))
    found = getattr(old, name)
    assert found is getattr(importlib.import_module(found.__module__), name)
    assert found.__module__ != module


def test_the_old_way_to_load_a_recipe() -> None:
    from dsvl_tune.recipe import RecipeCLI

    with pytest.warns(FutureWarning, match="Recipe"):
        cli = RecipeCLI(["--config", "charts_lora", "--model.lr", "0.5"], run=False)
    assert cli.config.model.lr == 0.5
    assert cli.model.lr == 0.5
    assert cli.datamodule.batch_size == 8
