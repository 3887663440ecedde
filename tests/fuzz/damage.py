"""Random damage to bytes and to JSON values, for every kind of fuzzed input."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from random import Random
from typing import Any

NESTED: Any = []
for _ in range(3000):
    NESTED = [NESTED]

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    7,
    1.5,
    1e308,
    10**30,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "<image>",
    "<video>",
    "<image 1>",
    "\\<image>",
    "<img>a.png</img>",
    "a.png",
    "A.PNG ",
    "../a.png",
    "/etc/passwd",
    "a.png\x00",
    "\ud800",
    "\x1b[2Jforged",
    "/" * 100_000,
    "A" * 300_000,
    "data:image/png;base64,",
    "http://127.0.0.1:9/a b.png",
    b"x",
    b"\x89PNG\r\n\x1a\n",
    [],
    {},
    [None],
    [[]],
    ["x"],
    ["a.png", "a.png"],
    {"a": 1},
    {"bytes": None, "path": None},
    {"bytes": b"x", "path": "a.png"},
    {"role": "user", "content": "x"},
    {"type": "image"},
    NESTED,
]
"""What a value is replaced with: other types, extreme ones, and what only looks right."""


def damage_bytes(content: bytes, chance: Random) -> bytes:
    """The bytes with some changed, cut, repeated, removed or added."""
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        if not damaged:
            break
        start = chance.randrange(len(damaged))
        length = chance.choice((1, 1, 4, 64, 512, 5000))
        what = chance.randrange(6)
        if what == 0:
            damaged[start] ^= 1 << chance.randrange(8)
        elif what == 1:
            damaged[start : start + length] = chance.randbytes(min(length, len(damaged) - start))
        elif what == 2:
            del damaged[start:]
        elif what == 3:
            del damaged[start : start + length]
        elif what == 4:
            damaged[start:start] = damaged[start : start + length]
        else:
            damaged[start : start + length] = bytes(min(length, len(damaged) - start))
    return bytes(damaged)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    yield path
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield from places(inner, (*path, key))


def damage_value(value: Any, keys: list[str], chance: Random) -> Any:
    """A JSON value with one of its values replaced, moved to another key, removed or added.

    Args:
        value: what to damage; not changed.
        keys: names that keys get.
        chance: decides.
    """
    value = copy.deepcopy(value)
    path, new = chance.choice(list(places(value))), chance.choice(VALUES)
    if not path:
        return new
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    what = chance.random()
    if what < 0.5:
        inner[path[-1]] = new
    elif what < 0.65:
        del inner[path[-1]]
    elif isinstance(inner, list):
        inner.insert(path[-1], new)
    elif what < 0.85:
        inner[chance.choice(keys)] = inner.pop(path[-1])
    else:
        inner[chance.choice(keys)] = new
    return value
