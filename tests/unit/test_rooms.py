"""Which room may import which: the walk over every file, and proof that each rule bites."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Room -> what of ours it may import beside itself. A name with a dot opens one module of a room.
RULES: dict[str, set[str]] = {
    "__init__": set(),
    "schema": set(),
    "metrics": set(),
    "files": {"schema"},
    "tensor_store": set(),
    "models": {"schema", "files"},
    "data": {"schema"},
    "training": {"schema", "files", "tensor_store", "models", "metrics"},
    "datamodules": {
        "schema",
        "tensor_store",
        "data",
        "metrics",
        "models.processor",
        "models.loading",
    },
}
RULES["commands"] = RULES["recipe"] = RULES["recipe_parser"] = {*RULES, "recipe", "recipe_parser"}
RULES["cli"] = {*RULES}
RULES["__main__"] = {"cli"}


def sources() -> list[Path]:
    """Every file of the package, relative to the package as it is imported."""
    package = [path.relative_to(ROOT / "dsvl_tune") for path in (ROOT / "dsvl_tune").rglob("*.py")]
    return sorted(
        [*package, *(path.relative_to(ROOT) for path in (ROOT / "datamodules").rglob("*.py"))]
    )


def read(file: Path) -> str:
    """The source of a file that `sources` names."""
    folder = ROOT if file.parts[0] == "datamodules" else ROOT / "dsvl_tune"
    return (folder / file).read_text(encoding="utf-8")


def imported(file: Path, source: str) -> Iterator[str]:
    """Dotted names below dsvl_tune that a file imports anywhere in it, in functions and for type checking too."""
    package = ["dsvl_tune", *file.parent.parts]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (
            name.removeprefix("dsvl_tune.") for name in names if name.startswith("dsvl_tune.")
        )


def violations(file: Path, source: str) -> list[str]:
    """What the file imports against the rule of its room."""
    room = file.parts[0].removesuffix(".py")
    allowed = {room, *RULES[room]}
    return [
        name
        for name in imported(file, source)
        if name.split(".")[0] in RULES
        and not any(f"{name}.".startswith(f"{prefix}.") for prefix in allowed)
    ]


@pytest.mark.parametrize("file", sources(), ids=str)
def test_rooms_import_only_what_they_may(file: Path) -> None:
    assert violations(file, read(file)) == []


def test_every_room_is_walked() -> None:
    assert {file.parts[0].removesuffix(".py") for file in sources()} == set(RULES)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("__init__.py", "from dsvl_tune.core.types import UserError"),
        ("schema.py", "from dsvl_tune.core.files import write_json"),
        ("files.py", "from dsvl_tune.families.deepseek_vl.parts import part_of"),
        ("metrics/floor.py", "from dsvl_tune.core.types import Batch"),
        ("models/loading.py", "from dsvl_tune.data.encoding.tokenize import encode"),
        ("models/loading.py", "from dsvl_tune import data"),
        ("models/loading.py", "from ..data import encode"),
        ("data/encode.py", "def encode() -> None:\n    import dsvl_tune.models.checkpoint.load"),
        ("data/synthetic/charts.py", "from ...models import loading"),
        ("data/encode.py", "from dsvl_tune.core.files import write_json"),
        ("data/seen.py", "from dsvl_tune.core.tensor_cache import TensorStore"),
        (
            "training/module.py",
            "if TYPE_CHECKING:\n    from dsvl_tune.data.encoding.tokenize import encode",
        ),
        ("training/module.py", "from dsvl_tune.datamodules.base import Rows"),
        ("training/module.py", "from dsvl_tune import recipe"),
        ("datamodules/base.py", "from dsvl_tune.models.finetuning.adapters import apply_plan"),
        ("datamodules/base.py", "from dsvl_tune.models import adapters"),
        (
            "datamodules/base.py",
            "from dsvl_tune.training.objectives.supervised import supervised_loss",
        ),
        ("commands/merge.py", "from dsvl_tune.cli.main import run"),
        ("recipe.py", "from dsvl_tune.cli.main import run"),
        ("__main__.py", "from dsvl_tune.cli.finetune_cli import main"),
    ],
)
def test_the_rule_bites(file: str, source: str) -> None:
    assert violations(Path(file), source)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("training/manifest.py", "import dsvl_tune"),
        ("cli.py", "from dsvl_tune import __version__"),
        ("datamodules/base.py", "from dsvl_tune.models import processor"),
        ("datamodules/charts.py", "from .base import Rows"),
        ("commands/merge.py", "from dsvl_tune.cli.finetune_cli import RecipeCLI"),
    ],
)
def test_the_rule_lets_pass(file: str, source: str) -> None:
    assert not violations(Path(file), source)
