"""The branches for a GPU, run without one: `on_cuda.py` in a process with a pretended device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest
import torch

sys.path.append(str(Path(__file__).parent))

import pretended_library


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is built for CUDA: make gpu")
@pytest.mark.skipif(which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_on_a_pretended_gpu(tmp_path: Path) -> None:
    here = Path(__file__).parent
    library = pretended_library.build(tmp_path)
    folders = [str(here), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "pretended_library", here / "on_cuda.py"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, folders)),
            pretended_library.VARIABLE: str(library),
        },
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
