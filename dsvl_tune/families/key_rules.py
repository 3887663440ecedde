"""Rules between the tensor names of an original layout and those of transformers.

A rule is one name in each layout, with fields in braces that stand for the same text in both, and
how the tensor changes between them. A family lists its rules as a table; the functions here apply
such a table in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from string import Formatter
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Change = Literal["same", "batch", "qkv"]
"""How a tensor differs between the layouts.

- same: not at all.
- batch: a position table [1, tokens, width] there is an embedding [tokens, width] here.
- qkv: one fused projection [3 x width, ...] there is three here, in the order query, key, value.
"""

FIELDS = {
    "layer": r"\d+",
    "n": "[12]",
    "hw": "[hw]",
    "leaf": "weight|bias",
    "qkv": "[qkv]",
    "rest": ".+",
}
"""What each field may stand for."""


class Rule(NamedTuple):
    """One line of a table.

    Attributes:
        original: name in the original layout.
        transformers: name in transformers' layout.
        change: how the tensor changes.
    """

    original: str
    transformers: str
    change: Change = "same"


class RuleGroup(NamedTuple):
    """What a rule says of one tensor of the original layout; a `core.family.TensorGroup`.

    Attributes:
        original: its name there.
        transformers: its one or three names here.
        change: how it changes.
    """

    original: tuple[str, ...]
    transformers: tuple[str, ...]
    change: Change

    def to_transformers(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensors of transformers' layout, as views of the original's, in its dtype."""
        (tensor,) = tensors
        if self.change == "qkv":
            return tensor.chunk(3)
        return (tensor[0] if self.change == "batch" else tensor,)

    def to_original(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensor of the original layout from transformers', of the files' shapes and dtype."""
        if self.change == "qkv":
            return (torch.cat(list(tensors)),)
        return (tensors[0][None] if self.change == "batch" else tensors[0],)


@cache
def name_pattern(template: str) -> re.Pattern[str]:
    """The name of a rule as a pattern, with a group for each field."""
    pattern = ""
    for text, field, _, _ in Formatter().parse(template):
        pattern += re.escape(text)
        if field:
            pattern += f"(?P<{field}>{FIELDS[field]})"
    return re.compile(pattern)


def group_of_original(name: str, rules: Sequence[Rule]) -> RuleGroup | None:
    """The group of a name in the original layout; None if no rule fits."""
    for rule in rules:
        match = name_pattern(rule.original).fullmatch(name)
        if match is None:
            continue
        letters = "qkv" if rule.change == "qkv" else " "
        fields = match.groupdict()
        names = tuple(rule.transformers.format(**fields, qkv=letter) for letter in letters)
        return RuleGroup((name,), names, rule.change)
    return None


def group_of_transformers(name: str, rules: Sequence[Rule]) -> RuleGroup | None:
    """The group of a name in transformers' layout; None if no rule fits."""
    for rule in rules:
        match = name_pattern(rule.transformers).fullmatch(name)
        if match is not None:
            return group_of_original(rule.original.format(**match.groupdict()), rules)
    return None
