"""Damaged settings: recipes, command lines, and the config.json of checkpoints."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml
from damage import VALUES, damage_bytes, damage_value
from frame import Case, Kind

from dsvl_tune.core.renamed_keys import rename_arguments
from dsvl_tune.families import open_checkpoint
from dsvl_tune.recipe.parser import recipe_parser
from dsvl_tune.recipe.recipe import Recipe, complete_settings
from dsvl_tune.recipe.shipped import shipped_recipes
from dsvl_tune.training.run.trainer_keys import check_trainer

GOLDEN = Path(__file__).parents[1] / "golden"
KEYS = [
    *("model", "data", "trainer", "seed_everything", "run_name", "monitor", "keep_best", "lr"),
    *("parts", "rank", "alpha", "mode", "betas", "max_steps", "devices", "logger", "callbacks"),
    *("class_path", "init_args", "batch_size", "train", "sources", "ratios", "num_workers", "x.y"),
    *("language_model", "text_ratio", "metrics", "objective", "callbacks+", "val_check_interval"),
]


TYPED = ("nan", ".inf", "1e400", "[", "{a: 1}", "&a [*a]", "-", "--", "null", "~/x", "a.b.C")
"""What people and programs type, besides damaged values."""


def read(arguments: list[str]) -> Recipe:
    """What every command does with its arguments before it opens anything."""
    recipe = Recipe.parse(recipe_parser(), rename_arguments(arguments)[0])
    assert recipe.model is not None
    check_trainer(recipe.trainer, recipe.data.num_workers)
    return recipe


def check_recipe(recipe: object) -> None:
    """What was accepted is finite, and can be written as a run's config.yaml and read again."""
    assert isinstance(recipe, Recipe)
    text = yaml.safe_dump(recipe.settings, allow_unicode=True)
    assert all(math.isfinite(number) for number in numbers(recipe.settings))
    assert complete_settings(yaml.safe_load(text)) == recipe.settings


def numbers(value: Any) -> Iterator[float]:
    """Every number inside settings."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)):
        yield value


@cache
def whole_recipe(name: str) -> str:
    """A shipped recipe as YAML without comments."""
    text = shipped_recipes()[name].read_text(encoding="utf-8")
    return yaml.safe_dump(yaml.safe_load(text), sort_keys=False)


def damaged_recipe(folder: Path, chance: Random) -> Case:
    """A shipped recipe with damaged values or bytes."""
    names = [name for name, path in shipped_recipes().items() if path.parent.name != "data"]
    text = whole_recipe(chance.choice(names))
    if chance.random() < 0.6:
        settings = yaml.safe_load(text)
        try:
            for _ in range(chance.choice((1, 1, 2))):
                settings = damage_value(settings, KEYS, chance)
            text = yaml.dump(settings, sort_keys=False, allow_unicode=True)
        except RecursionError:
            text = "data: " + "[" * 3000
        content = text.encode("utf-8", "surrogatepass")
    else:
        content = damage_bytes(text.encode(), chance)
    file = folder / "mine.yaml"
    file.write_bytes(content)
    return Case(lambda: read(["--config", str(file)]), check_recipe)


@cache
def dotted_keys() -> list[str]:
    """Every key of a recipe on the command line, and some that there are not."""
    keys = [action.dest for action in recipe_parser()._actions if action.dest != "help"]
    keys = [key for key in keys if "print_config" not in key and not key.endswith("help")]
    own = ["data.batch_size", "data.train_charts", "data.kinds", "data.none", "data.metrics"]
    parts = ["model.parts.language_model.rank", "model.parts.none.lr", "model.parts.aligner"]
    return [*keys, *own, *parts, "data.init_args.seed", "model.lrr", "x", "", "config"]


def damaged_command_line(folder: Path, chance: Random) -> Case:
    """Options with values that do not fit them."""
    arguments = ["--config", "charts_lora"]
    for _ in range(chance.choice((1, 1, 2, 3))):
        key = chance.choice(dotted_keys())
        value = chance.choice([*VALUES, *TYPED])
        try:
            text = value if isinstance(value, str) else json.dumps(value, default=repr)
        except RecursionError:
            text = "[" * 3000
        if len(text) > 120_000:  # longer than the operating system passes on
            text = text[:120_000]
        option = f"--{key}{chance.choice(('', '', '', '+'))}"
        arguments += [f"{option}={text}"] if chance.random() < 0.4 else [option, text]
    if chance.random() < 0.2:
        arguments.insert(chance.randrange(len(arguments)), chance.choice(("", "-", "--", "=", "x")))
    return Case(lambda: read(arguments), check_recipe)


def damaged_config(folder: Path, chance: Random) -> Case:
    """A checkpoint whose config.json, or other JSON file, has damaged values or bytes."""
    family = chance.choice(("hybrid", "siglip"))
    source = GOLDEN / family / "checkpoint"
    for file in source.iterdir():
        if file.is_file():
            shutil.copy(file, folder / file.name)
    target = folder / chance.choice(
        ("config.json", "config.json", "config.json", "preprocessor_config.json")
    )
    if not target.is_file():
        target = folder / "config.json"
    text = target.read_text(encoding="utf-8")
    if chance.random() < 0.75:
        config = json.loads(text)
        keys = ["model_type", "text_config", "vision_config"]
        try:
            for _ in range(chance.choice((1, 1, 2))):
                config = damage_value(config, keys, chance)
            text = json.dumps(config, default=repr)
        except RecursionError:
            text = '{"text_config": ' + "[" * 3000
        content = text.encode("utf-8", "surrogatepass")
    else:
        content = damage_bytes(text.encode(), chance)
    target.write_bytes(content)

    def act() -> object:
        checkpoint = open_checkpoint(str(folder))
        return checkpoint.processor

    return Case(act)


SETTINGS_KINDS: dict[str, Kind] = {
    "recipes": damaged_recipe,
    "command_lines": damaged_command_line,
    "configs": damaged_config,
}
"""Kind of settings -> what damages it."""
