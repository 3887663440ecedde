"""The documentation is complete, and its pages, tests, keys, commands and recipes exist."""

from __future__ import annotations

import inspect
import re
import sys
from itertools import pairwise
from pathlib import Path

import lightning
import pytest
import yaml

import dsvl_tune
from dsvl_tune import datamodules
from dsvl_tune.cli.main import COMMANDS, main
from dsvl_tune.core.renamed_keys import RENAMED_KEYS
from dsvl_tune.training.module import FinetuneModule

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.yaml")),
    *PAGES,
]
KEY = re.compile(r"(?:^|[\s`(\-{])(model|data|trainer)\.(?!md\b)([a-z_]+)\b(?![/(])")
SETTINGS = {"class_path", "init_args", "help"}


def in_nav(entry: object) -> list[str]:
    """Pages of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in in_nav(part)]  # type: ignore[attr-defined]


def test_every_page_is_in_the_navigation_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(in_nav(nav)) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def test_every_decision_names_tests_that_exist() -> None:
    for page in sorted((DOCS / "design").glob("*.md")):
        if page.name == "index.md":
            continue
        _, held_by = page.read_text(encoding="utf-8").split("**Held by.**")
        named = re.findall(r"`((?:tests|benchmarks)/[\w/.]+)`", held_by)
        assert named or "import contract" in held_by, page.name
        missing = [path for path in named if not (ROOT / path).exists()]
        assert not missing, f"{page.name}: {missing}"


def known_keys() -> dict[str, set[str]]:
    """Names below `model`, `data` and `trainer`, from the constructors that define them."""
    classes = [getattr(datamodules, name) for name in datamodules.__all__]
    return {
        "model": set(inspect.signature(FinetuneModule).parameters),
        "data": {key for one in classes for key in inspect.signature(one).parameters},
        "trainer": set(inspect.signature(lightning.Trainer).parameters),
    }


def test_every_key_exists() -> None:
    known = known_keys()
    wrong = []
    for text in TEXTS:
        for section, key in KEY.findall(text.read_text(encoding="utf-8")):
            full = f"{section}.{key}"
            if key not in known[section] | SETTINGS and full not in RENAMED_KEYS:
                wrong.append(f"{text.relative_to(ROOT)}: {full}")
    assert not wrong


def commands() -> list[list[str]]:
    """Every `dsvl-tune COMMAND ...` in a code block or recipe header, split into words."""
    found = []
    for text in TEXTS:
        lines = text.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        for line in lines:
            start = re.match(r"(?:# commands|#)?\s*dsvl-tune ([^#]*)", line)
            words = start[1].replace("(", " ").split() if start else []
            if words and words[0] in COMMANDS:
                found.append(words)
    return found


def test_every_command_and_option_exists(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, set[str]] = {}
    for words in commands():
        options.setdefault(words[0], set()).update(
            word.split("=")[0] for word in words if re.match(r"--[a-z_]+(=|$)", word)
        )
    assert len(options) > 10
    for command, given in options.items():
        shown = ""
        for name in (command, "fit"):
            monkeypatch.setattr(sys, "argv", ["dsvl-tune", name, "--help"])
            with pytest.raises(SystemExit):
                main()
            shown += capsys.readouterr().out
        unknown = {option for option in given if f"{option} " not in f"{shown} ".replace("\n", " ")}
        assert not unknown - {"--ckpt_path"}, command


def test_every_recipe_named_exists() -> None:
    recipes = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    presets = {path.stem for path in (ROOT / "recipes" / "data").glob("*.yaml")}
    for words in commands():
        named = [after for word, after in pairwise(words) if word == "--config"]
        shipped = {name for name in named if "/" not in name and not name.endswith(".yaml")}
        assert shipped - {"NAME"} <= recipes | presets, words
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Recipes")[1]
    names = r"`((?:charts|invoices|deepseek|janus|stages|embedded)_\w[\w.]*)`"
    listed = set(re.findall(names, table))
    stages = {
        f"{family}_stage{stage}" for family in ("deepseek_vl", "janus_pro_1b") for stage in (2, 3)
    }
    assert recipes - listed <= stages
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert {name for name in presets if f"`{name}`" in page} == presets


def test_readme_is_short_and_its_test_command_is_what_ci_calls() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    assert "make test" in readme
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_version_is_that_of_the_changelog_and_the_citation() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert newest is not None
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == newest[1] == dsvl_tune.__version__
    assert citation["date-released"] == newest[2]
