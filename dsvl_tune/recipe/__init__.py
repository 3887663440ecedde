"""Recipes: from YAML, command-line keys or Python objects to a model, data and trainer settings.

- `keys`: the keys of a recipe, and the names of the shipped recipes.
- `parser`: `RecipeParser`, whose errors name the nearest key, and whose help is short.
- `recipe`: `Recipe`, what was parsed; `describe_run`, the recipe of a run that Python started.
"""
