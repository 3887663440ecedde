"""What Windows and macOS lack is not needed to start; here its absence is played on Linux."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsvl_tune.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": {"fork", "getuid", "geteuid", "killpg", "setsid", "uname", "WNOHANG", "sched_yield"},
    "signal": {"SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "SIGUSR2", "setitimer"},
    "select": {"poll", "epoll"},
}
POSIX_DOTTED = {f"{module}.{name}" for module, names in POSIX_NAMES.items() for name in names}
WITHOUT_POSIX = """
import importlib, os, platform, select, signal, sys, types
import argparse, asyncio, codecs, ctypes, logging, multiprocessing, shutil, subprocess, tempfile
import psutil, yaml, jsonargparse, safetensors, sacrebleu  # others' own ways on each system
sys.modules.update(dict.fromkeys(MODULES))
sys.modules["msvcrt"] = types.ModuleType("msvcrt")
for module, names in NAMES.items():
    for name in names:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
sys.platform = "win32"
from dsvl_tune.cli.main import main
for arguments in COMMAND_LINES:
    sys.argv = ["dsvl-tune", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended.code
import dsvl_tune.core.limits, dsvl_tune.core.storage.locks, dsvl_tune.training.run.stop_request
"""


def test_every_help_is_printed_without_posix() -> None:
    arguments = [["--version"], ["recipes"], *([command, "--help"] for command in COMMANDS)]
    given = f"MODULES, NAMES = {sorted(POSIX_MODULES)!r}, {POSIX_NAMES!r}\n"
    code = f"{given}COMMAND_LINES = {arguments!r}\n{WITHOUT_POSIX}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(f"dsvl-tune {command}" in done.stdout for command in COMMANDS)


def guarded(tree: ast.Module) -> set[ast.AST]:
    """Everything in an `if` that asks for the system, in either of its branches."""
    asking = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "sys.platform" in ast.unparse(node.test)
    ]
    return {inner for node in asking for inner in ast.walk(node)}


def posix_uses(tree: ast.Module) -> Iterator[str]:
    """Imports and names that only POSIX has, outside of such an `if`."""
    inside = guarded(tree)
    for node in ast.walk(tree):
        if node in inside:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in POSIX_MODULES)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in POSIX_DOTTED:
            yield ast.unparse(node)


ALLOWED = {
    "dsvl_tune/cli/main.py": {"select.poll"},  # after such an if
}


@pytest.mark.parametrize("folder", ["dsvl_tune", "datamodules"])
def test_nothing_else_needs_posix(folder: str) -> None:
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        uses = set(posix_uses(ast.parse(path.read_text(encoding="utf-8")))) - ALLOWED.get(
            name, set()
        )
        if uses:
            found[name] = uses
    assert not found
