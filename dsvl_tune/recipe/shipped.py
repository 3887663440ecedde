"""The recipes and data presets that the package brings."""

from __future__ import annotations

from pathlib import Path

from dsvl_tune.core.package import ROOTS


def shipped_recipes() -> dict[str, Path]:
    """Find the recipes and data presets of the package.

    Returns:
        Their files by name, in alphabetical order of the files.
    """
    files = [path for root in ROOTS for path in sorted((root / "recipes").rglob("*.yaml"))]
    return {path.stem: path for path in files}


def purpose_of(recipe: Path) -> str:
    """Read what a recipe is for: the first paragraph of its header, up to a semicolon.

    Args:
        recipe: Its file.
    """
    paragraph, _, _ = recipe.read_text(encoding="utf-8").partition("\n#\n")
    words = " ".join(line.removeprefix("#").strip() for line in paragraph.splitlines())
    return words.partition(";")[0].rstrip(".")
