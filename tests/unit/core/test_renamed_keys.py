"""Old recipe keys and options are translated wherever a recipe can hold them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsvl_tune.core.renamed_keys import new_key, rename_arguments, rename_keys, renamed_text
from dsvl_tune.recipe.recipe import Recipe, read_settings
from dsvl_tune.training.run.folder import place_run


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("best_by", "monitor"),
        ("model.final_lr_share", "model.min_lr_ratio"),
        ("data.overlong", "data.on_overflow"),
        ("data.init_args.overlong", "data.init_args.on_overflow"),
        ("data.sources.a.init_args.probe_scenes", "data.sources.a.init_args.retention_scenes"),
        (
            "data.init_args.sources.a.init_args.sources.b.init_args.probe_tables",
            "data.init_args.sources.a.init_args.sources.b.init_args.retention_tables",
        ),
        ("model.lr", None),
        ("overlong", None),
        ("model.best_by", None),
        ("data.shares", "data.ratios"),
        ("data.text_share.end", "data.text_ratio.end"),
        # A source may have any name.
        ("data.init_args.shares.overlong", "data.init_args.ratios.overlong"),
        ("data.init_args.ratios.overlong", None),
        ("data.init_args.sources.overlong", None),
    ],
)
def test_new_key(old: str, new: str | None) -> None:
    assert new_key(old) == new


def test_a_recipe_is_translated_at_every_level() -> None:
    old = """
best_by: val/loss
model: {final_lr_share: 0.1, lr: 1.0e-3}
data:
  class_path: MixtureDataModule
  init_args:
    whole_steps: true
    shares: {overlong: 1}
    text_share: {start: 1.0, end: 0.7, steps: 10}
    sources:
      overlong: {class_path: ChartsDataModule, init_args: {overlong: truncate}}
"""
    new = """
monitor: val/loss
model: {min_lr_ratio: 0.1, lr: 1.0e-3}
data:
  class_path: MixtureDataModule
  init_args:
    homogeneous_steps: true
    ratios: {overlong: 1}
    text_ratio: {start: 1.0, end: 0.7, steps: 10}
    sources:
      overlong: {class_path: ChartsDataModule, init_args: {on_overflow: truncate}}
"""
    translated, renamed = rename_keys(yaml.safe_load(old))
    assert translated == yaml.safe_load(new)
    assert list(renamed) == [
        "best_by",
        "model.final_lr_share",
        "data.init_args.whole_steps",
        "data.init_args.shares",
        "data.init_args.text_share",
        "data.init_args.sources.overlong.init_args.overlong",
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--best_by", "last"], ["--monitor", "last"]),
        (["--data.overlong=truncate"], ["--data.on_overflow=truncate"]),
        (["--learnt", "90"], ["--supervised", "90"]),
        (
            ["--data.sources.a", "{init_args: {overlong: truncate}}"],
            ["--data.sources.a", '{"init_args": {"on_overflow": "truncate"}}'],
        ),
        (["--data.shares", "{overlong: 1}"], ["--data.ratios", "{overlong: 1}"]),
        (["--data.shares.overlong", "1"], ["--data.ratios.overlong", "1"]),
        (["--prompt", "{is it?"], ["--prompt", "{is it?"]),
        (["runs/best_by", "--out", "best_by"], ["runs/best_by", "--out", "best_by"]),
    ],
)
def test_a_command_line_is_translated(old: list[str], new: list[str]) -> None:
    translated, renamed = rename_arguments(old)
    assert translated == new
    assert bool(renamed) == (old != new)


def test_the_warning_has_a_line_for_each_old_name() -> None:
    text = renamed_text({"best_by": "monitor", "learnt": "supervised"})
    assert len(text.splitlines()) == 2
    assert "'best_by' is now 'monitor'" in text
    assert renamed_text({}) == ""


def test_an_unfinished_run_with_old_keys_is_resumed(tmp_path: Path) -> None:
    """Also if it was started before a key existed: the key then has its default."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("monitor: last\ndata: {class_path: ChartsDataModule}\n", encoding="utf-8")
    settings = Recipe.load(recipe).settings
    old = deepcopy(settings)
    old["best_by"] = old.pop("monitor")
    old["data"]["init_args"]["overlong"] = old["data"]["init_args"].pop("on_overflow")
    del old["model"]["feature_cache_gb"]
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(old), encoding="utf-8")

    def place(settings: dict[str, Any]) -> tuple[Path, Path | None]:
        return place_run(
            run, ckpt_path=None, resume="auto", settings=settings, read_settings=read_settings
        )

    assert place(settings) == (run, None)
    settings["data"]["init_args"]["on_overflow"] = "truncate"
    assert place(settings) == (tmp_path / "run-2", None)
