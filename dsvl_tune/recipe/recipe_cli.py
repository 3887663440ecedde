"""`RecipeCLI` of release 0.1, for one release; `Recipe` replaces it."""

from __future__ import annotations

import warnings

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.renamed_keys import rename_arguments
from dsvl_tune.recipe.parser import recipe_parser
from dsvl_tune.recipe.recipe import Recipe


class RecipeCLI:
    """Model and data module of a recipe.

    Args:
        arguments: Arguments as on the command line, without a command.
        run: Must be False; `dsvl_tune.fit` runs.
    """

    def __init__(self, arguments: list[str], run: bool = True) -> None:
        warnings.warn(
            "dsvl_tune.recipe.RecipeCLI is now dsvl_tune.recipe.recipe.Recipe; the old name stops "
            "working after release 0.2",
            FutureWarning,
            stacklevel=2,
        )
        if run:
            raise UserError("RecipeCLI: run is not supported any more. Call dsvl_tune.fit.")
        recipe = Recipe.parse(recipe_parser(), rename_arguments(arguments)[0])
        self.config = recipe.config
        self.model = recipe.model
        self.datamodule = recipe.data
