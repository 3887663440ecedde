"""Makes torch, built for the CPU, accept tensors that say that they are on a CUDA device.

As a plugin of pytest (`-p pretended_library`) it loads the library that the environment variable
names, before anything imports torch, which decides at its start which devices there are.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "PRETENDED_CUDA"


def build(folder: Path) -> Path:
    """Compile the library against the headers of the installed torch.

    Args:
        folder: where it goes.
    """
    spec = find_spec("torch")
    assert spec is not None and spec.origin is not None
    torch = Path(spec.origin).parent
    source, library = Path(__file__).with_name("pretended_cuda.cpp"), folder / "pretended_cuda.so"
    flags = ["-shared", "-fPIC", "-O0", "-std=c++20", f"-I{torch / 'include'}"]
    linked = [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch / 'lib'}"]
    compiler = os.environ.get("CXX", "g++")
    subprocess.run([compiler, *flags, str(source), "-o", str(library), *linked], check=True)
    return library


if VARIABLE in os.environ:
    ctypes.CDLL(os.environ[VARIABLE], mode=ctypes.RTLD_GLOBAL)
