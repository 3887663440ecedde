"""The parser of recipes: help worth reading, errors as one message with the nearest key, the shipped ones by name."""

from __future__ import annotations

import inspect
import re
import sys
from argparse import HelpFormatter
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

import dsvl_tune
import dsvl_tune.datamodules
from dsvl_tune.core.errors import UserError, nearest_name, unknown_name
from dsvl_tune.core.renamed_keys import rename_keys, renamed_text
from dsvl_tune.families.deepseek_vl.parts import PartPlan

DESCRIPTION = {
    "fit": """fit: train by a recipe

A recipe is YAML; every key of it can be given or overridden here, later ones win:

  dsvl-tune fit --config charts_lora
  dsvl-tune fit --config charts_lora --model.parts.language_model.rank 8 --trainer.max_steps 100
  dsvl-tune fit --config charts_lora --data dsvl_tune.datamodules.InstructDataModule --data.train my.jsonl
  dsvl-tune fit --config charts_lora --time_limit_s 3600     an hour; the same command goes on

--config takes a file or the name of a shipped recipe. model.* says what is trained and how, data.* what on,
trainer.* is Lightning's Trainer. --print_config shows every key with its value; --data.help CLASS the keys of a
data module. Ctrl-C, SIGTERM and SIGUSR1 save after the step; the same command goes on, also after a kill.""",
    "validate": "validate: loss and generated answers on the recipe's validation data\n\n"
    "  dsvl-tune validate --config charts_lora --model.checkpoint merged",
    "test": """test: scores of generated answers on the recipe's test data

  dsvl-tune test --config runs/NAME/config.yaml --ckpt_path best
  dsvl-tune test --config charts_lora --model.checkpoint merged

Without --ckpt_path the weights of model.checkpoint answer as they are; best and last are a run's own.""",
    "predict": """predict: answer every question of the recipe's test data, one JSON line each

  dsvl-tune predict --config runs/NAME/config.yaml --ckpt_path best --data.test new.jsonl --out answers.jsonl
  dsvl-tune predict --config charts_lora --model.checkpoint merged --out answers.jsonl

Without --ckpt_path the weights of model.checkpoint answer as they are; best and last are a run's own. Questions need
no expected answer. --data.eval_batch_size answers that many at once; --model.max_new_tokens is the longest answer.""",
}

DATA_MODULES: list[type] = [
    getattr(dsvl_tune.datamodules, name) for name in dsvl_tune.datamodules.__all__
]
"""All imported, since jsonargparse finds by its bare name, and lists in its help, a class that is imported alone."""
USUAL_TRAINER_KEYS = (
    "max_steps",
    "max_epochs",
    "val_check_interval",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "precision",
    "accelerator",
    "devices",
    "log_every_n_steps",
)
"""What the help shows of Lightning's Trainer; every other key of it works as well."""


class RecipeParser(LightningArgumentParser):
    """Errors as one message with the nearest key, without the usage text in front."""

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Any:
        """Parse a recipe's text after replacing the keys that were renamed."""
        try:
            settings = yaml.safe_load(content)
        except yaml.YAMLError:  # reported with its place below
            settings = None
        if isinstance(settings, dict):
            settings, renamed = rename_keys(settings)
            if renamed:
                print(renamed_text(renamed), file=sys.stderr)
                content = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        return super().parse_string(content, *args, **kwargs)

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """The description as it is written, then the keys, of the Trainer's the usual ones; no list of all in front."""
        if self.description not in DESCRIPTION.values():
            return super().format_help(formatter)
        formatter = formatter or self._get_formatter()
        for group in self._action_groups:
            shown = [action for action in group._group_actions if worth_showing(action.dest)]
            if shown:
                formatter.start_section(group.title)
                formatter.add_arguments(shown)
                formatter.end_section()
        return f"dsvl-tune {self.description}\n\n{formatter.format_help()}"

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(self.told(message)) from ex

    def told(self, message: str) -> str:
        """The message with what to do. The keys of a data module have their own parser, with its name as a group."""
        if re.search(r"arguments are required: (\w+\.)?data$", message):
            return (
                "no data module is named. Give a recipe that has one, --config FILE or a shipped one by its name "
                "(e.g. --config charts_lora), or --data CLASS."
            )
        name = re.search(r"Expected a dot import path string: (\w+)", message)
        if name and nearest_name(name[1], dsvl_tune.datamodules.__all__, cutoff=0.8):
            return str(unknown_name("data module", name[1], dsvl_tune.datamodules.__all__))
        unknown = re.fullmatch(r"Option '([\w.]+)' is not accepted", message)
        kind = next((kind for kind in DATA_MODULES if kind.__name__ in (self.groups or ())), None)
        if unknown and kind:
            return no_such_key(kind, unknown[1], self.key_names())
        text = readable(message)
        return f"{text}{'' if text.endswith('?') else '.'}{self.nearest(message)}"

    def nearest(self, message: str) -> str:
        """Return the suggestion (`Did you mean ...?`) for a key that does not exist."""
        unknown = re.search(r"(?:option|arguments:|Option) ['\"]?(?:--)?([\w.]+)", message)
        if unknown is None or "Did you mean" in message:
            return ""
        near = nearest_name(unknown[1], self.key_names(), cutoff=0.8)
        near = near or nearest_name(unknown[1].split(".")[-1], class_keys())
        return f" Did you mean {near!r}?" if near else " --print_config shows every key."

    def key_names(self) -> list[str]:
        """Every key of this parser and of its subcommands."""
        parsers = [
            p for action in self._actions for p in getattr(action, "_name_parser_map", {}).values()
        ]
        return [action.dest for parser in (self, *parsers) for action in parser._actions]


def readable(message: str) -> str:
    """jsonargparse's message without what it says about types that were tried in vain."""
    noise = r"does not validate|subtypes:|errors:|(- )?expected a <class 'nonetype'>|given value"
    lines = [
        line.strip(" -")
        for line in message.splitlines()
        if not re.match(rf"\s*(- )?({noise})", line.lower())
    ]
    return " ".join(line for line in lines if line).rstrip(".")


def no_such_key(kind: type, key: str, keys: list[str]) -> str:
    """That a data module has not the key; its nearest one, else the most general data module that has it.

    Args:
        kind: the data module. key: what was given. keys: those it has.
    """
    near = nearest_name(key, keys, cutoff=0.8)
    owners = [kind for kind in DATA_MODULES if key in inspect.signature(kind).parameters]
    if near:
        hint = f"Did you mean {near!r}?"
    elif owners:
        owner = min(owners, key=lambda kind: len(kind.mro())).__name__
        hint = f"{owner} has: give --data dsvl_tune.datamodules.{owner} before its keys."
    else:
        hint = f"--data.help {kind.__name__} shows its keys."
    return f"{kind.__name__} has no key {key!r}. {hint}"


def class_keys() -> list[str]:
    """Keys inside `model.parts` and of the package's data modules, which the parser only knows as values."""
    signatures = [inspect.signature(kind) for kind in (PartPlan, *DATA_MODULES)]
    return [name for signature in signatures for name in signature.parameters]


def worth_showing(key: str) -> bool:
    """Whether the help has a line for a key."""
    section, _, name = key.partition(".")
    if section == "trainer":
        return name in USUAL_TRAINER_KEYS
    return not key.endswith(".help") and key not in ("model", "trainer")


def recipe_name(configs: Any) -> str:
    """The name of the first recipe given, "fit" if none was."""
    return Path(str(configs[0])).stem if configs else "fit"


def with_shipped_recipes(arguments: list[str]) -> list[str]:
    """The arguments with names of shipped recipes turned into their files.

    Raises:
        UserError: a recipe is neither a file nor shipped.
    """
    resolved = []
    for index, argument in enumerate(arguments):
        before = arguments[index - 1] if index else ""
        if before in ("--config", "-c"):
            resolved.append(recipe_file(argument))
        elif argument.startswith("--config="):
            resolved.append("--config=" + recipe_file(argument.removeprefix("--config=")))
        else:
            resolved.append(argument)
    return resolved


def recipe_file(name: str) -> str:
    """A file as it is, else the shipped recipe of that name."""
    if Path(name).is_file():
        return name
    folders = [Path(root) / "recipes" for root in dsvl_tune.__path__]
    shipped = {path.stem: path for folder in folders for path in sorted(folder.rglob("*.yaml"))}
    stem = Path(name).name.removesuffix(".yaml")
    if stem not in shipped:
        raise UserError(f"--config {name}: no such file; {unknown_name('recipe', stem, shipped)}")
    return str(shipped[stem])
