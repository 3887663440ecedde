"""Classes that a recipe or an option names by their import path."""

from __future__ import annotations

import importlib
from typing import TypeVar

from dsvl_tune.core.errors import UserError

Base = TypeVar("Base")


def import_class(path: str, key: str, base: type[Base]) -> type[Base]:
    """Import a class.

    Args:
        path: Its import path, e.g. my_module.MyClass.
        key: Key or option that names it, for messages.
        base: What it must be a subclass of.

    Raises:
        UserError: There is no such class, or it is of another kind.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{key}: {path}: {error}. Expected the class path of a {base.__name__}, e.g. "
            f"mymodule.My{base.__name__} of mymodule.py in the working folder."
        ) from error
    if not isinstance(found, type) or not issubclass(found, base):
        raise UserError(f"{key}: {path} is no {base.__name__}. Expected a class that is one.")
    return found
