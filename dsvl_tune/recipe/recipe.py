"""A parsed recipe, and the recipe of a run that was started from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import import_object

from dsvl_tune.core.checkpoint.hub import with_revision
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.renamed_keys import rename_keys
from dsvl_tune.datamodules.base import ConversationDataModule
from dsvl_tune.recipe.bounds import check_numbers
from dsvl_tune.recipe.parser import recipe_parser
from dsvl_tune.recipe.run_keys import RECIPE_KEYS, RUN_KEYS, find_recipes, named_model_class
from dsvl_tune.recipe.yaml_file import load_yaml
from dsvl_tune.training.module import FinetuneModule

Settings = dict[str, Any]


class Recipe:
    """What a command line or a YAML file asks for.

    Model, data module and trainer settings are made when they are first used. Making them opens no
    file: their constructors store arguments.

    Args:
        parser: Parser with the keys of a recipe.
        config: What it parsed, with the command's own options.
    """

    def __init__(self, parser: ArgumentParser, config: Namespace) -> None:
        self.parser = parser
        self.config = config

    @classmethod
    def parse(cls, parser: ArgumentParser, arguments: list[str]) -> Recipe:
        """Parse a command line.

        Args:
            parser: Parser with the keys of a recipe.
            arguments: Arguments of the command; shipped recipes may be given by name.

        Raises:
            UserError: An unknown key or recipe, or a value that its key does not take.
        """
        with _as_user_error():
            config = parser.parse_args(find_recipes(arguments))
        for section in ("trainer", "model"):
            if not isinstance(config[section], Namespace):
                raise UserError(f"{section}: {config[section]!r}, expected keys and their values.")
        values = config.as_dict()
        check_numbers({key: values.pop(key, None) for key in RECIPE_KEYS})
        check_numbers(values, prefix=f"{parser.prog.split()[-1]}.")  # the command's own options
        _join_revision(config)
        return cls(parser, config)

    @classmethod
    def load(cls, path: Path, changes: Mapping[str, Any] | None = None) -> Recipe:
        """Load a YAML file.

        Args:
            path: The file, e.g. the `config.yaml` of a run.
            changes: Values by dotted key that replace those of the file.

        Raises:
            UserError: An unknown key, or a value of a wrong type.
        """
        arguments = ["--config", str(path)]
        for key, value in (changes or {}).items():
            arguments += [f"--{key}", str(value)]
        parser = recipe_parser(model_class=named_model_class(arguments))
        return cls.parse(parser, arguments)

    @property
    def name(self) -> str:
        """Name of the recipe's first file; "fit" without one."""
        return self.config_file.stem if self.config_file else "fit"

    @property
    def config_file(self) -> Path | None:
        """The first file that was given, if any."""
        return Path(str(self.config.config[0])) if self.config.config else None

    @cached_property
    def settings(self) -> Settings:
        """Every setting of the recipe as YAML holds it, defaults included."""
        return _dump(self.parser, self.config)

    @property
    def run_options(self) -> Settings:
        """The arguments of `dsvl_tune.fit` that are keys of the recipe."""
        options = {key: self.config[key] for key in RUN_KEYS}
        return {**options, "run_name": self.config.run_name or self.name}

    @property
    def first_run_folder(self) -> Path:
        """Folder of the first run of this name."""
        return Path(self.config.run_dir) / (self.config.run_name or self.name)

    @property
    def model(self) -> FinetuneModule:
        """The model, not built yet."""
        model: FinetuneModule = self._objects.model
        model.optimizer = _factory(self.config.get("optimizer"))
        model.lr_scheduler = _factory(self.config.get("lr_scheduler"))
        return model

    @property
    def data(self) -> ConversationDataModule:
        """The data module, not set up yet."""
        data: ConversationDataModule = self._objects.data
        return data

    @property
    def trainer(self) -> Settings:
        """Arguments of Lightning's Trainer."""
        return dict(vars(self._objects.trainer))

    @cached_property
    def _objects(self) -> Namespace:
        try:
            return self.parser.instantiate(self.config)
        except UserError:
            raise
        except Exception as error:  # whatever a class that the recipe names does
            reason = f"{type(error).__name__}: {error}"
            raise UserError(
                f"a class that the recipe names cannot be made ({reason}). --debug shows where."
            ) from error


def read_settings(path: Path) -> Settings:
    """Read the full settings of a run; keys that are newer than the run get their defaults.

    Args:
        path: Its `config.yaml`.

    Raises:
        UserError: A key that no longer exists, or a value of a wrong type.
    """
    settings, _ = rename_keys(load_yaml(path))
    return complete_settings(settings)


def complete_settings(given: Mapping[str, Any]) -> Settings:
    """Check the settings of a recipe and add the defaults of all others.

    Args:
        given: Settings as YAML holds them.

    Raises:
        UserError: An unknown key, or a value of a wrong type.
    """
    parser = recipe_parser(model_class=given.get("model_class"))
    with _as_user_error():
        config = parser.parse_object(deepcopy(dict(given)))  # it changes nested values
    check_numbers({key: config.as_dict().get(key) for key in RECIPE_KEYS})
    _join_revision(config)
    return _dump(parser, config)


def _join_revision(config: Namespace) -> None:
    """Put the revision that `model.revision` gives after the name of the checkpoint, in place.

    All that follows reads a single key, and the same base is the same recipe in either form.

    Raises:
        UserError: `model.checkpoint` has no revisions, or names another one.
    """
    if config.model.get("revision") is not None:
        config.model.checkpoint = with_revision(config.model.checkpoint, config.model.revision)
        config.model.revision = None
        config.data.init_args.checkpoint = config.model.checkpoint  # follows it (LINKED_KEYS)


@contextmanager
def _as_user_error() -> Iterator[None]:
    """Turn what jsonargparse does not expect of a value into one message."""
    try:
        yield
    except UserError:
        raise
    except RecursionError:
        raise UserError("a value of the recipe is nested too deeply.") from None
    except Exception as error:  # parsers raise what they like
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"a value of the recipe cannot be read ({reason}). --debug shows where."
        ) from error


def _dump(parser: ArgumentParser, config: Namespace) -> Settings:
    """Turn parsed settings into what YAML holds, without the options of a command."""
    text = parser.dump(config, format="yaml", skip_unset=False, skip_link_targets=False)
    settings = yaml.safe_load(text)
    return {key: settings.get(key) for key in RECIPE_KEYS}


def _factory(setting: Namespace | None) -> Callable[..., Any] | None:
    """The class or function of a setting with its arguments; None without one."""
    if setting is None:
        return None
    made = import_object(setting.class_path)
    return partial(made, **setting.get("init_args", Namespace()).as_dict())
