"""What a survey found of each row, kept in the cache piece by piece: the same pass, broken off, goes on where it broke.

A row is examined again if its file, the settings or one of its pictures is another than it was, and always if something
was wrong with it: what was repaired since is no error any more.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import dsvl_tune
from dsvl_tune.core.cache_folder import cache_folder
from dsvl_tune.core.files import write_cached
from dsvl_tune.core.types import Conversation
from dsvl_tune.data.validation.inspect import FORK_FROM, Examine, Facts, examined

PIECE = 1000
"""Rows of a file in the cache."""
Stamps = dict[str, tuple[int, int] | None]


def cached_inspection(
    rows: Sequence[list[Conversation]], examine: Examine, identity: str | None, title: str
) -> Iterator[Facts]:
    """As `survey.survey`, without examining rows again that are known.

    Args:
        rows, examine, title: as there.
        identity: equal for equal rows, as file stamps are; None for rows that have none. These, and sets so small that
            reading them anew is quick, are not kept.
    """
    if identity is None or len(rows) < FORK_FROM:
        yield from chain.from_iterable(examined(rows, examine, None, title))
        return
    settings = f"{dsvl_tune.__version__}{identity}{examine.identity()}"
    folder = cache_folder("facts") / blake2b(settings.encode(), digest_size=16).hexdigest()
    stamps: Stamps = {}
    starts = range(0, len(rows), PIECE)
    missing = deque(
        start + place
        for start in starts
        for place, known in enumerate(
            read_piece(folder / str(start), min(PIECE, len(rows) - start), stamps)
        )
        if known is None
    )
    found = examined(rows, examine, tuple(missing), title)
    for start in starts:
        piece = read_piece(folder / str(start), min(PIECE, len(rows) - start), stamps)
        news = False
        for place in range(len(piece)):
            if missing and missing[0] == start + place:
                missing.popleft()
                piece[place], news = next(found), True
        whole = [facts for facts in piece if facts is not None]
        if news:
            write_cached(folder / str(start), partial(Path.write_text, data=as_text(whole, stamps)))
        yield from chain.from_iterable(whole)


def as_text(piece: Sequence[list[Facts]], stamps: Stamps) -> str:
    """A line a row: its facts and its pictures' stamps."""
    return "".join(
        json.dumps([[asdict(one), [stamp(name, stamps) for name in one.images]] for one in facts])
        + "\n"
        for facts in piece
    )


def read_piece(path: Path, rows: int, stamps: Stamps) -> list[list[Facts] | None]:
    """The facts of a piece's rows as they were kept; None for a row that is to be examined."""
    if not path.is_file():
        return [None] * rows
    return [known_facts(json.loads(line), stamps) for line in path.read_text().splitlines()]


def known_facts(
    kept: list[tuple[dict[str, object], list[list[int] | None]]], stamps: Stamps
) -> list[Facts] | None:
    """A row's facts, unless it had an error or a picture has changed."""
    found = []
    for values, was in kept:
        facts = Facts(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})  # type: ignore[arg-type]
        now = [stamp(name, stamps) for name in facts.images]
        if facts.error or now != [None if one is None else tuple(one) for one in was]:
            return None
        found.append(facts)
    return found


def stamp(name: str, stamps: Stamps) -> tuple[int, int] | None:
    """Size and time of change of a picture that is a file; None for others, whose name or row tells what they hold."""
    if name not in stamps:
        try:
            status = os.stat(name)
            stamps[name] = (status.st_size, status.st_mtime_ns)
        except OSError:
            stamps[name] = None
    return stamps[name]
