"""`dsvl-tune env`: versions and hardware, for a bug report."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from dsvl_tune.cli.parser import command_parser
from dsvl_tune.core.machine import available_cores
from dsvl_tune.core.package import VERSION

LIBRARIES = (
    "torch",
    "lightning",
    "transformers",
    "peft",
    "torchmetrics",
    "jsonargparse",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "datasets",
    "pillow",
    "bitsandbytes",
)
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE")
"""Environment variables that change results or speed; none holds a secret."""


def env() -> None:
    """Print versions and hardware, to paste into a bug report.

    No path, no name of a user or host, and no secret is printed.
    """
    import psutil
    import torch

    memory = psutil.virtual_memory().total / 2**30
    cores = available_cores()
    facts = {
        "dsvl-tune": VERSION,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor_name(),
        "cores": f"{cores} usable of {os.cpu_count()}, {torch.get_num_threads()} threads of torch",
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "memory": f"{memory:.1f} GiB",
        **{f"GPU {number}": _gpu(number) for number in range(torch.cuda.device_count())},
        "CUDA of torch": torch.version.cuda or "none",
        **{name: _installed(name) for name in LIBRARIES},
        **{name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name:<{width}}  {fact}")


def processor_name() -> str:
    """Name of the processor, as the operating system knows it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or "unknown"


def _gpu(number: int) -> str:
    """Name and memory of a GPU."""
    import torch

    properties = torch.cuda.get_device_properties(number)
    return f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"


def _installed(name: str) -> str:
    """Version of a library, or that it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    command_parser("env", env).parse_args(arguments)
    env()
