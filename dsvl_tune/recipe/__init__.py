"""Recipes: from YAML, command-line keys or Python objects to a model, data and trainer settings.

- `keys`: the keys of a recipe.
- `shipped`: the recipes that the package brings.
- `parser`: `RecipeParser`, whose errors name the nearest key, and whose help is short.
- `recipe`: `Recipe`, what was parsed; `describe_run`, the recipe of a run that Python started.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import `RecipeCLI`, which release 0.1 had here, when a script asks for it."""
    if name == "RecipeCLI":
        from dsvl_tune.recipe.recipe_cli import RecipeCLI

        return RecipeCLI
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
