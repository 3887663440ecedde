"""What the result of a run depends on besides recipe and rows: base checkpoint, code of one's own.

A run that is resumed on other weights or code would end with a result that nobody could repeat. So
their hashes are in the run's `manifest.json`, and a difference is refused. Rows and pictures have
their checksums in the run checkpoint, next to the position that depends on them.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.package import FOLDER, ROOTS

MANIFEST = "manifest.json"
"""What a run was made with, in its folder."""
SMALL_FILES = ("*.json", "*.jinja")
"""Files of a base checkpoint that say how rows become tokens and pixels."""


def run_inputs(base: Checkpoint, data: Any, others: Iterable[Any]) -> dict[str, str]:
    """Hash what a run reads.

    Args:
        base: The base checkpoint.
        data: A data module.
        others: Objects and functions that the recipe names: objective, metrics, callbacks.

    Returns:
        What it is -> a hash of its content.
    """
    found = {f"base checkpoint: {name}": digest for name, digest in base.weight_hashes.items()}
    for pattern in SMALL_FILES:
        for path in sorted(set(base.folder.glob(pattern)) - {base.folder / "config.json"}):
            found[f"base checkpoint: {path.name}"] = base.file_hash(path)
    settings = json.dumps(base.settings, sort_keys=True)  # read when the checkpoint was opened
    found["base checkpoint: config.json"] = hashlib.sha256(settings.encode()).hexdigest()
    modules = [data, *getattr(data, "sources", {}).values()]
    for path in sorted({path for thing in [*modules, *others] for path in own_sources(thing)}):
        found[f"code: {path}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def own_sources(thing: Any) -> set[Path]:
    """The files with the user's own code of an object or a function, and those they import.

    Args:
        thing: Of any class; those of this package, of Python and of what is installed next to it
            have no code of the user's own.
    """
    parts = [thing] if inspect.isroutine(thing) else type(thing).__mro__
    found: set[Path] = set()
    waiting = [path for part in parts for path in _own_file(part)]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [one for module in _imported(path) for one in _own_file(module)]
    return found


@cache
def _foreign_folders() -> frozenset[Path]:
    """Where no code is the user's own: this package, Python, and what is installed next to it."""
    own = (FOLDER, *(root / "datamodules" for root in ROOTS))
    return frozenset((*own, *(Path(path).resolve() for path in sysconfig.get_paths().values())))


def _own_file(thing: Any) -> Iterator[Path]:
    """The file of a class, function or module, if it is the user's own."""
    try:
        path = Path(inspect.getfile(thing)).resolve()
    except (TypeError, OSError):  # built in, or typed into an interpreter
        return
    if path.is_file() and _foreign_folders().isdisjoint(path.parents):
        yield path


def _imported(path: Path) -> Iterator[ModuleType]:
    """The modules that are loaded and that a file of Python imports."""
    loaded = {getattr(module, "__file__", None): module for module in sys.modules.values()}
    package = getattr(loaded.get(str(path)), "__package__", None) or ""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (SyntaxError, ValueError):  # no Python, e.g. a compiled module
        return
    for node in nodes:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
            above = ".".join([*(parents if node.level else []), *([node.module or ""])]).strip(".")
            names = [above, *(f"{above}.{alias.name}".strip(".") for alias in node.names)]
        yield from (sys.modules[name] for name in names if name in sys.modules)


def check_inputs(run_folder: Path, inputs: dict[str, str]) -> None:
    """Compare what a run would read with what it read before it was stopped.

    Args:
        run_folder: Folder of the run. One of a release that kept no hashes is not compared.
        inputs: What `run_inputs` gives now.

    Raises:
        UserError: The message names what changed.
    """
    before = read_manifest(run_folder).get("inputs")
    if not isinstance(before, dict):
        return
    # Code that is named no more, or only now, shows in the settings; a callback that was given from
    # Python may stay away.
    changed = sorted(
        name
        for name in before.keys() | inputs.keys()
        if before.get(name) != inputs.get(name)
        and not (name.startswith("code: ") and (name not in before or name not in inputs))
    )
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise UserError(
            f"{run_folder}: cannot be resumed, because what it depends on has changed: "
            f"{', '.join(changed[:5])}{more}. Put it back, start a new run with --resume never, or "
            "resume all the same with --ckpt_path last."
        )


def read_manifest(run_folder: Path) -> dict[str, Any]:
    """Read the manifest of a run; {} if there is none or it cannot be read."""
    try:
        content = json.loads((run_folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
