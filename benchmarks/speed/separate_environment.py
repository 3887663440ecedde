"""Environments for other people's software, made once and kept in .interop of the checkout.

The benchmarks run other trainers in them, tests/interop loads exports there.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import distributions, version
from pathlib import Path
from venv import EnvBuilder

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".interop"
"""Not in .cache, which `make docs` empties."""
TORCH = f"torch=={version('torch').partition('+')[0]}"
"""The release of the running interpreter."""
CUDA_BUILDS = ("torch", "torchvision", "torchaudio", "torchcodec")
"""PyPI has these for CUDA. torch is installed apart, and images need none of the others."""
INSTALL = ("install", "--quiet", "--disable-pip-version-check")


def environment(
    name: str,
    packages: Sequence[str],
    *,
    over_ours: bool = False,
    complete: Callable[[Path], None] | None = None,
) -> Path:
    """The interpreter of an environment with these packages.

    Args:
        name: of its folder; made anew when the packages change.
        packages: requirements for pip.
        over_ours: whether it also has the packages of the running interpreter, where it has no
            others of its own.
        complete: installs more into it, given its interpreter.
    """
    folder = HOME / name
    stamp, wanted = folder / "packages.txt", "\n".join(packages)
    python = folder / "bin" / "python"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        EnvBuilder(clear=True, with_pip=True).create(folder)
        if over_ours:
            path = f"{sysconfig.get_path('purelib')}\n"
            (site_packages(python) / "ours.pth").write_text(path, encoding="utf-8")
        subprocess.run([str(python), "-m", "pip", *INSTALL, *packages], check=True)
        if complete is not None:
            complete(python)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def site_packages(python: Path) -> Path:
    """Where an environment of the running interpreter's version has its packages."""
    inside = Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    return python.parents[1] / inside


def install_without(
    python: Path, package: str, pinned: Sequence[str], left_out: Collection[str] = CUDA_BUILDS
) -> None:
    """Install a package and its requirements but some.

    Args:
        python: interpreter of the environment.
        package: name and version, NAME==VERSION.
        pinned: requirements that are installed with them, such as `TORCH`.
        left_out: names of requirements.
    """
    pip = [str(python), "-m", "pip", *INSTALL]
    subprocess.run([*pip, "--no-deps", package], check=True)
    needed = requirements_of(python, package.partition("==")[0])
    kept = [str(each) for each in needed if each.name not in left_out]
    subprocess.run([*pip, *pinned, *kept], check=True)


def requirements_of(python: Path, package: str) -> list[Requirement]:
    """What an installed package requires on this machine, without markers and extras."""
    (found,) = distributions(name=package, path=[str(site_packages(python))])
    requirements = [Requirement(line) for line in found.requires or []]
    needed = [
        each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})
    ]
    for each in needed:
        each.marker = None
    return needed
