"""Every number of every key and option has a bound, and values outside of it are refused."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from jsonargparse import ArgumentParser

import dsvl_tune.datamodules
from dsvl_tune.cli.main import COMMANDS
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan
from dsvl_tune.data.sampling.mixture_schedule import Ramp
from dsvl_tune.recipe.bounds import BOUNDS, OPTION_BOUNDS, bound_of, check_numbers
from dsvl_tune.recipe.parser import recipe_parser
from dsvl_tune.recipe.recipe import Recipe, complete_settings
from dsvl_tune.training.module import FinetuneModule

HUGE = (10**30, 1e300)
NOT_FINITE = (float("nan"), float("inf"), -float("inf"))
SEVERAL = ("data.ratios", "data.loss_weights", "data.modality_weights")


def numeric(owner: Any) -> Iterator[str]:
    """The arguments of a constructor that take numbers."""
    hints = typing.get_type_hints(owner if inspect.isfunction(owner) else owner.__init__)
    for name in inspect.signature(owner).parameters:
        if re.search(r"\b(int|float)\b", str(hints.get(name))):
            yield name


def numeric_keys() -> Iterator[str]:
    """The dotted keys of a recipe that take numbers, by the real signatures."""
    yield from ("seed_everything", "keep_best", "checkpoint_every_steps", "time_limit_s")
    yield from (f"trainer.{name}" for name in numeric(L.Trainer))
    yield from (f"model.{name}" for name in numeric(FinetuneModule))
    yield from (f"model.parts.sam.{field.name}" for field in fields(PartPlan))
    yield from (f"data.text_ratio.{field.name}" for field in fields(Ramp))
    for name in dsvl_tune.datamodules.__all__:
        for key in numeric(getattr(dsvl_tune.datamodules, name)):
            yield f"data.{key}.text" if f"data.{key}" in SEVERAL else f"data.{key}"


WITHOUT = {
    "model.parts.sam.mode",
    "data.text_ratio.shape",
    "trainer.max_time",  # text, or whole numbers by unit: trainer.max_time.*
}
KEYS = sorted(set(numeric_keys()) - WITHOUT)


def test_the_walk_sees_every_kind_of_key() -> None:
    assert {"model.lr", "model.betas", "trainer.devices", "data.most", "data.seed"} <= set(KEYS)
    assert len(KEYS) > 60


@pytest.mark.parametrize("key", KEYS)
def test_every_numeric_key_has_a_bound(key: str) -> None:
    assert bound_of(key) is not None, f"add {key} to dsvl_tune/recipe/bounds.py"


def nested(key: str, value: Any) -> dict[str, Any]:
    """Settings with one value, as a parsed recipe nests them."""
    settings: Any = value
    for name in reversed(key.split(".")):
        settings = {name: settings}
    return dict(settings)


@pytest.mark.parametrize("key", KEYS)
def test_numbers_that_no_key_takes(key: str) -> None:
    for number in (*NOT_FINITE, *HUGE, -7, -0.5):
        with pytest.raises(UserError, match=rf"^{re.escape(key)}: .*, expected a "):
            check_numbers(nested(key, number))


ZERO_ALLOWED = {
    "data.check_rows",
    "data.num_workers",
    "data.pixel_cache_gb",
    "data.ratios.text",
    "data.test_invoices",
    "data.validation_invoices",
    "data.retention_scenes",
    "data.retention_tables",
    "data.seed",
    "data.test_charts",
    "data.test_rows",
    "data.text_ratio",
    "data.text_ratio.end",
    "data.text_ratio.first",
    "data.text_ratio.start",
    "data.validation_charts",
    "data.validation_rows",
    "model.betas",
    "model.lora_dropout",
    "model.max_nonfinite_steps",
    "model.min_lr_ratio",
    "model.warmup_steps",
    "model.weight_decay",
    "seed_everything",
    "trainer.devices",  # Lightning's own message names the accelerator
    "trainer.fast_dev_run",
    "trainer.gradient_clip_val",
    "trainer.min_epochs",
    "trainer.min_steps",
    "trainer.num_sanity_val_steps",
    "trainer.overfit_batches",
    "trainer.reload_dataloaders_every_n_epochs",
}


@pytest.mark.parametrize("key", KEYS)
def test_zero_is_taken_only_where_it_means_something(key: str) -> None:
    bound = bound_of(key)
    assert bound is not None
    assert bound.allows(0) == (key in ZERO_ALLOWED)


@pytest.mark.parametrize("key", sorted(BOUNDS))
def test_the_message_says_what_is_taken(key: str) -> None:
    assert re.match(r"a (whole )?number (of batches )?(from|above) ", str(BOUNDS[key]))


def numeric_options() -> Iterator[str]:
    """The commands' own options that take numbers, as COMMAND.OPTION."""
    for command in COMMANDS:
        module = importlib.import_module(f"dsvl_tune.cli.commands.{command.replace('-', '_')}")
        parser = ArgumentParser(exit_on_error=False)
        if hasattr(module, "add_options"):
            module.add_options(parser)
        for function in vars(module).values():
            is_own = getattr(function, "__module__", None) == module.__name__
            if is_own and function.__name__ in (command, f"{command}_command"):
                parser.add_function_arguments(function)
        for action in parser._actions:
            hint = str(getattr(action, "_typehint", getattr(action, "type", None)))
            if re.search(r"\b(int|float)\b", hint):
                yield f"{command}.{action.dest}"


def test_every_numeric_option_of_a_command_has_a_bound() -> None:
    options = set(numeric_options())
    assert {"chat.temperature", "merge.rows", "preview.rows", "estimate-memory.tokens"} <= options
    assert options == OPTION_BOUNDS.keys(), "see dsvl_tune/recipe/bounds.py"


@pytest.mark.parametrize("option", OPTION_BOUNDS)
def test_numbers_that_no_option_takes(option: str) -> None:
    command, name = option.split(".")
    for number in (*NOT_FINITE, *HUGE, -7):
        with pytest.raises(UserError, match=rf"^--{name}: .*, expected a "):
            check_numbers({name: number}, prefix=f"{command}.")


REFUSED = [
    ("--model.lr", ".nan", "model.lr: nan, expected a number above 0 to 100."),
    ("--model.lr", ".inf", "model.lr: inf, expected"),
    ("--model.lr", "1e400", "model.lr: inf, expected"),
    ("--model.betas", "[0.9, 1.0]", "model.betas: 1.0, expected a number from 0 below 1."),
    ("--model.parts.aligner.rank", "0", "model.parts.aligner.rank: 0, expected a whole number"),
    ("--model.warmup_steps", "-4", "model.warmup_steps: -4, expected"),
    ("--model.max_new_tokens", "0", "model.max_new_tokens: 0, expected"),
    ("--trainer.max_steps", "0", "trainer.max_steps: 0, expected a whole number from 1 to"),
    ("--trainer.max_steps", "-2", "or -1 (no limit)."),
    ("--trainer.limit_train_batches", "0", "trainer.limit_train_batches: 0, expected a number of"),
    ("--trainer.limit_train_batches", "1.5", "trainer.limit_train_batches: 1.5, expected"),
    ("--trainer.val_check_interval", ".nan", "trainer.val_check_interval: nan, expected"),
    ("--trainer.accumulate_grad_batches", "0", "trainer.accumulate_grad_batches: 0, expected"),
    ("--trainer.log_every_n_steps", "0", "trainer.log_every_n_steps: 0, expected"),
    ("--data.batch_size", "-3", "data.batch_size: -3, expected a whole number from 1"),
    ("--data.seed", "5", "--data.seed: follows seed_everything, and would be ignored."),
    ("--data.checkpoint", "other", "--data.checkpoint: follows model.checkpoint"),
    ("--seed_everything", "-5", "seed_everything: -5, expected a whole number from 0"),
    ("--keep_best", "-1", "keep_best: -1, expected"),
    ("--time_limit_s", "0", "time_limit_s: 0.0, expected a number above 0"),
    # of a wrong type: null, lists, text, numbers too long for a float
    ("--model.lr", "null", "--model.lr: expected a number, found null."),
    ("--model.lr", "[[1]]", "--model.lr: expected a number, found [[1]]."),
    ("--model.lr", "9" * 400, "a value of the recipe cannot be read (OverflowError"),
    ("--trainer.max_steps", "null", "--trainer.max_steps: expected a whole number, found null."),
    ("--trainer.max_steps", "1e30", "--trainer.max_steps: expected a whole number, found 1e+30."),
    ("--data.batch_size", "true", "expected a whole number, found true."),
    ("--model.parts", "[1]", "--model.parts: [1]: expected keys and their values."),
    ("--data.on_overflow", "x", "expected 'error' or 'truncate', found x."),
    ("--trainer.limit_val_batches", "nan", ": expected a whole number or a number."),
]


@pytest.mark.parametrize(("key", "value", "message"), REFUSED)
def test_the_command_line(key: str, value: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        Recipe.parse(recipe_parser(), ["--config", "charts_lora", key, value])
    assert message in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_sources_of_a_mixture_are_checked_too() -> None:
    source = {"class_path": "ChartsDataModule", "init_args": {"train_charts": 0}}
    data = {"class_path": "MixtureDataModule", "init_args": {"sources": {"charts": source}}}
    with pytest.raises(UserError, match=r"^data\.sources\.charts\.train_charts: 0, expected"):
        complete_settings({"data": data})


@pytest.mark.parametrize("key", ["num_workers", "batch_size", "train_charts"])
def test_null_is_no_number(key: str) -> None:
    data = {"class_path": "dsvl_tune.datamodules.ChartsDataModule", "init_args": {key: None}}
    with pytest.raises(UserError, match=rf"^data\.{key}: null, expected a whole number"):
        check_numbers({"data": data})
    check_numbers({"data": {**data, "init_args": {"max_tokens": None}}})


@pytest.mark.parametrize("text", ["trainer: text", "model: 3", "trainer: []"])
def test_a_section_that_is_no_mapping(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    files = ["--config", "charts_lora", "--config", str(tmp_path / "mine.yaml")]
    with pytest.raises(UserError):
        Recipe.parse(recipe_parser(), files)


def test_a_class_of_ones_own_gives_its_keys_their_own_meaning() -> None:
    own = {"class_path": "mydata.MyData", "init_args": {"questions": -1}}
    check_numbers({"data": own})
    own["init_args"]["questions"] = float("nan")
    with pytest.raises(UserError, match=r"^data\.questions: nan, expected a finite number"):
        check_numbers({"data": own})
    with pytest.raises(UserError, match=r"^data\.batch_size: 0, expected"):
        check_numbers({"data": {**own, "init_args": {"batch_size": 0}}})


def test_arguments_of_other_packages_may_be_infinite() -> None:
    callback = {"class_path": "EarlyStopping", "init_args": {"min_delta": float("inf")}}
    check_numbers({"trainer": {"callbacks": [callback]}})
    callback["init_args"]["min_delta"] = float("nan")
    with pytest.raises(UserError, match="expected a finite number"):
        check_numbers({"trainer": {"callbacks": [callback]}})


BAD_FILES = [
    ("model: {lr: 1}".encode("utf-16"), "not UTF-8"),
    (b"model:\n  lr: 1.0e-4\n  preset: lora\n  lr: 2.0e-4\n", ":4: 'lr' is given twice, first in"),
    (b"model: {lr: 1\n", "no valid YAML (line 2, column 1: "),
    (b"- model\n", "expected keys and their values"),
    (b"a: &a [*a]\n", ":1: a value contains itself, through an alias"),
    (b"data: " + b"[" * 3000, "too deeply"),
    (b"data: " + b"[" * 60 + b"]" * 60, ":1: nested too deeply"),
    (
        b"a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + b"".join(
            b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n"
            % (letter, letter, *[letter - 1] * 10)
            for letter in b"bcdefghi"
        ),
        "more than 100,000 values",
    ),
    (b"seed_everything: 2026-02-31\n", "no valid YAML"),
    (b"model: !!python/object/apply:os.system [touch PWNED]\n", "no valid YAML"),
    (b"\x00\x01", "no valid YAML"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES)
def test_files_that_are_no_recipe(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_bytes(content)
    with pytest.raises(UserError) as raised:
        Recipe.parse(recipe_parser(), ["--config", "mine.yaml"])
    assert str(raised.value).startswith("mine.yaml:")
    assert message in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_byte_order_mark_is_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_bytes(b"\xef\xbb\xbfmodel: {lr: 3.0e-3}\n")
    recipe = Recipe.parse(recipe_parser(), ["--config", "charts_lora", "--config", "mine.yaml"])
    assert recipe.config.model.lr == 3e-3


def test_a_second_recipe_does_not_replace_callbacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, key in (("a", "callbacks"), ("b", "callbacks"), ("more", "callbacks+")):
        callback = {"class_path": "lightning.pytorch.callbacks.DeviceStatsMonitor"}
        Path(f"{name}.yaml").write_text(json.dumps({"trainer": {key: [callback]}}))
    first = ["--config", "charts_lora", "--config", "a.yaml"]
    with pytest.raises(UserError, match=r"^trainer\.callbacks: b\.yaml would replace .* a\.yaml"):
        Recipe.parse(recipe_parser(), [*first, "--config=b.yaml"])
    both = Recipe.parse(recipe_parser(), [*first, "--config", "more.yaml"])
    assert len(both.config.trainer.callbacks) == 2
