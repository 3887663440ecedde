"""Environments for other people's software, made once and kept in .cache/interop."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from venv import EnvBuilder

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "scripts"


def environment(name: str, packages: Sequence[str], *, over_ours: bool = False) -> Path:
    """The interpreter of an environment with these packages.

    Args:
        name: of its folder; made anew when the packages change.
        packages: requirements for pip.
        over_ours: whether it also has the packages of the running interpreter, where it has no
            others of its own.
    """
    folder = ROOT / ".cache" / "interop" / name
    stamp, wanted = folder / "packages.txt", "\n".join(packages)
    python = folder / "bin" / "python"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        EnvBuilder(clear=True, with_pip=True).create(folder)
        if over_ours:
            site = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
            (site / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def run_script(python: Path, script: str, *arguments: str | Path) -> str:
    """What a script of tests/interop/scripts prints in another environment.

    Raises:
        AssertionError: it failed; the message has its output.
    """
    command = [str(python), str(SCRIPTS / script), *map(str, arguments)]
    environ = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
