"""Which numbers the keys of a recipe and the options of the commands take.

One table; every command and `dsvl_tune.fit` check it before anything is opened. A numeric key that
has no line here fails a test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsvl_tune.core.errors import UserError

MOST = 1_000_000_000
"""More rows, steps or tokens than any run has; a larger number is a mistake."""


@dataclass(frozen=True)
class Bound:
    """The numbers that a key takes.

    Args:
        low: Least number.
        high: Greatest number.
        above: Whether `low` itself is excluded.
        below: Whether `high` itself is excluded.
        whole: Whether the number counts something, so that the message says so.
        special: A number outside the range that is allowed besides, such as -1.
        meaning: What `special` means.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    whole: bool = False
    special: float | None = None
    meaning: str = ""

    def allows(self, number: float) -> bool:
        """Whether a key with this bound takes the number; never nan."""
        if number == self.special:
            return True
        over = number > self.low if self.above else number >= self.low
        under = number < self.high if self.below else number <= self.high
        return over and under

    def __str__(self) -> str:
        """Describe the numbers for an error message."""
        what = "a whole number" if self.whole else "a number"
        low = f"{'above' if self.above else 'from'} {self.low:,}"
        high = f"{'below' if self.below else 'to'} {self.high:,}"
        special = "" if self.special is None else f", or {self.special:g} ({self.meaning})"
        return f"{what} {low} {high}{special}"


@dataclass(frozen=True)
class BatchLimit(Bound):
    """Batches of a split: a number of them, or their share as a float, as Lightning reads it."""

    def allows(self, number: float) -> bool:
        """Whether Lightning's Trainer takes the number, and runs a batch at all."""
        if isinstance(number, int):
            return super().allows(number)
        return 0 < number <= 1

    def __str__(self) -> str:
        """Describe the numbers for an error message."""
        return "a number of batches from 1, or a share of them above 0.0 to 1.0"


COUNT = Bound(1, MOST, whole=True)
COUNT_OR_NONE = Bound(0, MOST, whole=True)
SEED = Bound(0, 2**32 - 1, whole=True)  # what numpy's generators take
RATIO = Bound(0, 1)
LEARNING_RATE = Bound(0, 100, above=True)
WEIGHT = Bound(0, 1_000_000, above=True)
BATCHES = BatchLimit(1, MOST)
ENDLESS = Bound(1, MOST, whole=True, special=-1, meaning="no limit")

RUN_BOUNDS: dict[str, Bound] = {
    "seed_everything": SEED,
    "keep_best": Bound(1, 10_000, whole=True),
    "floor.*": Bound(0, MOST),
    "checkpoint_every_steps": COUNT,
    "time_limit_s": Bound(0, MOST, above=True),
}

MODEL_BOUNDS: dict[str, Bound] = {
    "model.lr": LEARNING_RATE,
    "model.warmup_steps": COUNT_OR_NONE,
    "model.min_lr_ratio": RATIO,
    "model.betas": Bound(0, 1, below=True),
    "model.weight_decay": Bound(0, 100),
    "model.lora_dropout": Bound(0, 1, below=True),
    "model.max_new_tokens": Bound(1, 1_000_000, whole=True),
    "model.max_nonfinite_steps": COUNT_OR_NONE,
    "model.feature_cache_gb": Bound(0, 1_000_000, above=True),
    "model.parts.*.lr": LEARNING_RATE,
    "model.parts.*.rank": Bound(1, 65_536, whole=True),
    "model.parts.*.alpha": WEIGHT,
}

DATA_BOUNDS: dict[str, Bound] = {
    "data.batch_size": Bound(1, 1_000_000, whole=True),
    "data.eval_batch_size": Bound(1, 1_000_000, whole=True),
    "data.num_workers": Bound(0, 10_000, whole=True),  # against the machine: training/run/machine
    "data.seed": SEED,
    "data.max_tokens": COUNT,
    "data.pack_tokens": COUNT,
    "data.max_tiles": Bound(1, 1_000, whole=True),
    "data.pixel_cache_gb": Bound(0, 1_000_000),
    "data.eval_rows": COUNT,
    "data.eval_seconds": Bound(0, MOST, above=True),
}
"""Of every data module, one's own too."""

SHIPPED_DATA_BOUNDS: dict[str, Bound] = {
    "data.train_charts": COUNT,
    "data.validation_charts": COUNT_OR_NONE,
    "data.test_charts": COUNT_OR_NONE,
    "data.train_invoices": COUNT,
    "data.validation_invoices": COUNT_OR_NONE,
    "data.test_invoices": COUNT_OR_NONE,
    "data.retention_scenes": COUNT_OR_NONE,
    "data.questions": Bound(1, 1_000, whole=True),
    "data.train_rows": COUNT,
    "data.validation_rows": COUNT_OR_NONE,
    "data.test_rows": COUNT_OR_NONE,
    "data.retention_tables": COUNT_OR_NONE,
    "data.most": Bound(2, 6, whole=True),  # pictures show two to six elements
    "data.check_rows": COUNT_OR_NONE,
    "data.epoch_rows": COUNT,
    "data.ratios.*": Bound(0, 1_000_000),
    "data.loss_weights.*": WEIGHT,
    "data.modality_weights.*": WEIGHT,
    "data.text_ratio": RATIO,
    "data.text_ratio.start": RATIO,
    "data.text_ratio.end": RATIO,
    "data.text_ratio.steps": COUNT,
    "data.text_ratio.first": COUNT_OR_NONE,
}
"""Of the data modules of this package; in another, a key of the same name may mean otherwise."""

TRAINER_BOUNDS: dict[str, Bound] = {
    "trainer.devices": Bound(0, 100_000, whole=True, special=-1, meaning="all"),
    "trainer.num_nodes": Bound(1, 100_000, whole=True),
    "trainer.precision": Bound(16, 64, whole=True),
    "trainer.fast_dev_run": COUNT_OR_NONE,
    "trainer.max_epochs": ENDLESS,
    "trainer.min_epochs": COUNT_OR_NONE,
    "trainer.max_steps": ENDLESS,
    "trainer.min_steps": COUNT_OR_NONE,
    "trainer.max_time.*": COUNT_OR_NONE,
    "trainer.limit_train_batches": BATCHES,
    "trainer.limit_val_batches": BATCHES,
    "trainer.limit_test_batches": BATCHES,
    "trainer.limit_predict_batches": BATCHES,
    "trainer.overfit_batches": Bound(0, MOST),
    "trainer.val_check_interval": BATCHES,
    "trainer.val_check_interval.*": COUNT_OR_NONE,
    "trainer.check_val_every_n_epoch": COUNT,
    "trainer.num_sanity_val_steps": Bound(0, MOST, whole=True, special=-1, meaning="all"),
    "trainer.log_every_n_steps": COUNT,
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.gradient_clip_val": Bound(0, 1_000_000),
    "trainer.reload_dataloaders_every_n_epochs": COUNT_OR_NONE,
}

OPTION_BOUNDS: dict[str, Bound] = {
    "chat.temperature": Bound(0, 100),
    "chat.top_p": Bound(0, 1, above=True),
    "chat.repetition_penalty": Bound(0, 100, above=True),
    "chat.seed": SEED,
    "chat.max_new_tokens": Bound(1, 1_000_000, whole=True),
    "demo.max_new_tokens": Bound(1, 1_000_000, whole=True),
    "demo.port": Bound(1, 65_535, whole=True),
    "estimate-memory.tokens": COUNT,
    "estimate-memory.images": Bound(0, 1_000_000, whole=True),
    "estimate-memory.supervised": COUNT,
    "init.seed": SEED,
    "merge.rows": Bound(0, 1_000_000, whole=True),
    "merge.samples": Bound(0, 1_000, whole=True),
    "preview.rows": Bound(1, 100_000, whole=True),
    "sweep.trials": Bound(1, 100_000, whole=True),
}
"""Of the commands' own options, by COMMAND.OPTION."""

BOUNDS = {
    **RUN_BOUNDS,
    **MODEL_BOUNDS,
    **DATA_BOUNDS,
    **SHIPPED_DATA_BOUNDS,
    **TRAINER_BOUNDS,
    **OPTION_BOUNDS,
}

FOREIGN = (
    "trainer.callbacks",
    "trainer.logger",
    "trainer.plugins",
    "trainer.strategy",
    "optimizer",
    "lr_scheduler",
)
"""Keys whose values are arguments of other packages' classes, where inf may be a default."""

NULLABLE = (
    "max_tokens",
    "pack_tokens",
    "max_tiles",
    "epoch_rows",
    "text_ratio",
    "eval_rows",
    "eval_seconds",
)
"""Keys of data modules that may be null; jsonargparse takes null for each of a nested class."""

SHIPPED = "dsvl_tune.datamodules."
"""Beginning of the class paths of this package's data modules."""


def check_numbers(settings: Mapping[str, Any], prefix: str = "") -> None:
    """Check every number of a recipe or of a command's options.

    Args:
        settings: Parsed values by name, nested as in YAML.
        prefix: What to put in front of the names to find them in the table, e.g. "chat.".

    Raises:
        UserError: A number that its key does not take, or one that is not finite.
    """
    for key, number, class_path in _numbers(settings, ()):
        name = ".".join(key)
        bound = bound_of(prefix + name, class_path)
        if number is None:
            if bound is not None and key[-1] not in NULLABLE:
                raise UserError(f"{_shown(key, prefix)}: null, expected {bound}.")
            continue
        is_foreign = name.startswith(FOREIGN)
        if bound is not None and not bound.allows(number):
            raise UserError(f"{_shown(key, prefix)}: {number!r}, expected {bound}.")
        if math.isnan(number) or (math.isinf(number) and not is_foreign):
            raise UserError(f"{_shown(key, prefix)}: {number!r}, expected a finite number.")


def bound_of(key: str, class_path: str | None = None) -> Bound | None:
    """Look up the bound of a dotted key; sources of a mixture have the keys of data modules.

    Args:
        key: Dotted key without `init_args`, e.g. `data.sources.charts.batch_size`.
        class_path: Class of the data module that has the key; None for other keys.
    """
    parts = key.split(".")
    while parts[:2] == ["data", "sources"] and len(parts) > 3:
        parts = ["data", *parts[3:]]
    names = [".".join(parts)]
    for place in range(len(parts)):
        names.append(".".join([*parts[:place], "*", *parts[place + 1 :]]))
    for name in names:
        is_own = class_path is not None and not class_path.startswith(SHIPPED)
        if name in BOUNDS and not (is_own and name in SHIPPED_DATA_BOUNDS):
            return BOUNDS[name]
    return None


def _shown(key: Sequence[str], prefix: str) -> str:
    """Write a key for a message: an option as it is typed, a key of a recipe with its dots."""
    return f"--{'.'.join(key)}" if prefix else ".".join(key)


def _numbers(
    value: Any, key: tuple[str, ...], class_path: str | None = None
) -> Iterator[tuple[tuple[str, ...], float | None, str | None]]:
    """Go through nested settings: keys without `init_args`, numbers, and the class they belong to.

    Items of a list have the key of the list.
    """
    if value is None and key[:1] == ("data",):
        yield key, None, class_path
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, (int, float)):
        yield key, value, class_path
    elif isinstance(value, Mapping):
        own = value.get("class_path")
        below = own if isinstance(own, str) and key[:1] == ("data",) else class_path
        for name, item in value.items():
            inner = key if name == "init_args" else (*key, str(name))
            yield from _numbers(item, inner, below)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item, key, class_path)
