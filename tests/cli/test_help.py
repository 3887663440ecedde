"""Help of every command: fast, complete, and the same keys that the parser takes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from command_line import run, run_console_script
from test_cli import imported_by

import dsvl_tune.datamodules
from dsvl_tune.cli.main import COMMANDS
from dsvl_tune.recipe.signatures import (
    Constructor,
    data_constructors,
    module_constructor,
    trainer_constructor,
)
from dsvl_tune.training.module import FinetuneModule

SLOW = {"torch", "lightning", "transformers", "peft", "bitsandbytes", "torchmetrics", "datasets"}
"""The fastest of them takes a second of CPU to import."""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_imports_nothing_slow(command: str) -> None:
    assert not imported_by(command, "--help") & SLOW


def test_help_has_no_control_characters() -> None:
    from dsvl_tune.recipe.help import command_help

    text = command_help("fit", "", lambda parser: None)
    assert "--print_config [=flags]" in text and text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "--config", "charts_lora", "--data.help"],
        ["check-data", "--data.help", "MixtureDataModule"],
    ],
)
def test_keys_of_our_data_modules_import_nothing_slow(arguments: list[str]) -> None:
    assert not imported_by(*arguments) & SLOW


@pytest.mark.parametrize(
    ("constructor", "owner"),
    [
        (trainer_constructor(), L.Trainer),
        (module_constructor(), FinetuneModule),
        *(
            (constructor, getattr(dsvl_tune.datamodules, name))
            for name, constructor in data_constructors().items()
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_signatures_read_from_source_are_those_of_the_classes(
    constructor: Constructor, owner: Any
) -> None:
    read = {argument.name: argument.default for argument in constructor.arguments}
    expected: dict[str, str | None] = {}
    for kind in owner.mro() if owner is not L.Trainer else [L.Trainer]:
        if kind is L.LightningDataModule or "__init__" not in vars(kind):
            break
        signature = inspect.signature(kind.__init__)
        for name, parameter in list(signature.parameters.items())[1:]:
            if parameter.kind is parameter.VAR_KEYWORD or name in expected:
                continue
            empty = parameter.default is inspect.Parameter.empty
            default = parameter.default
            text = getattr(default, "__name__", repr(default))
            expected[name] = None if empty else text
        if kind is FinetuneModule:
            break
    assert read == expected
    assert [argument.name for argument in constructor.arguments if not argument.help] == []


def test_the_recipes_class_is_explained() -> None:
    shown = run("fit", "--config", "charts_lora", "--data.help")
    assert shown.returncode == 0
    assert "--data.train_charts TRAIN_CHARTS" in shown.stdout
    assert "charts in an epoch. (type: int, default: 10000)" in re.sub(r"\s+", " ", shown.stdout)
    assert "--data.batch_size" in shown.stdout
    named = run("fit", "--data.help", "InstructDataModule")
    assert "--data.images_root" in named.stdout
    assert "--data.train TRAIN" in named.stdout


OWN = '''
from dsvl_tune.datamodules import ChartsDataModule

class MyData(ChartsDataModule):
    """Charts of mine.

    Args:
        shade: how dark they are.
        **options: as in `ChartsDataModule`.
    """

    def __init__(self, *, shade: float = 0.5, **options):
        super().__init__(**options)
        self.shade = shade
'''


def test_a_class_of_ones_own_is_found_and_explained(tmp_path: Path) -> None:
    (tmp_path / "mydata.py").write_text(OWN)
    (tmp_path / "mine.yaml").write_text("data: {class_path: mydata.MyData}\n")
    for arguments in (["--config", "mine.yaml", "--data.help"], ["--data.help", "mydata.MyData"]):
        shown = run_console_script("fit", *arguments, folder=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert "how dark they are" in shown.stdout
        assert "train_charts" in shown.stdout
    printed = run_console_script(
        "fit", "--data", "mydata.MyData", "--print_config", folder=tmp_path
    )
    assert printed.returncode == 0, printed.stderr
    assert "class_path: mydata.MyData" in printed.stdout
