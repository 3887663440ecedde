"""The trainers that compare.py compares: with which interpreter, and a run of one of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from rig_inputs import SETS
from separate_environment import ROOT, TORCH, environment, install_without

BASELINE, OURS = "Trainer + peft", "dsvl-tune"
CONTENDERS = {
    BASELINE: "hf",
    "TRL": "trl",
    OURS: "ours",
    "ms-swift": "swift",
    "LLaMA-Factory": "llamafactory",
}
"""Name -> contender of step_bench.py. The others are compared with the first one."""
CACHED = f"{OURS}, feature cache"
"""As `OURS`, with another option."""
PACKAGES = {"ms-swift": "ms-swift==4.6.0", "LLaMA-Factory": "llamafactory==0.9.5"}
"""Those whose requirements exclude our releases of transformers and peft."""
EPOCH = 2
"""Steps of an epoch."""

Result = dict[str, Any]


def interpreter(name: str) -> Path:
    """The interpreter that a contender runs with; its environment is made if need be."""
    if name not in PACKAGES:
        return Path(sys.executable)
    package = PACKAGES[name]
    complete = partial(install_without, package=package, pinned=[TORCH])
    return environment(package.replace("==", "-"), [TORCH], complete=complete)


def run(name: str, model: Path, data: Path, batch_size: int, threads: int, scratch: Path) -> Result:
    """What step_bench.py measures of a contender in a fresh process; a feature cache starts empty.

    Raises:
        SystemExit: it failed; the message has the end of its output.
    """
    steps, further = EPOCH + 1, []
    if name in (OURS, CACHED) and SETS[data.name] > 1:
        further = ["--share-images"]
    if name == CACHED:
        shutil.rmtree(scratch, ignore_errors=True)
        steps, further = 3 * EPOCH, [*further, f"--feature-cache={scratch}"]
    command = [
        str(interpreter(name)),
        str(Path(__file__).with_name("step_bench.py")),
        f"--contender={CONTENDERS[OURS if name == CACHED else name]}",
        f"--model={model}",
        f"--data={data}",
        f"--steps={steps}",
        "--warmup=1",
        f"--batch-size={batch_size}",
        *further,
    ]
    settings = {
        "OMP_NUM_THREADS": str(threads),
        "GOMP_SPINCOUNT": "3000",  # threads of libgomp that spin while they wait take CPU time
        "PYTHONPATH": str(ROOT),  # dsvl_tune, which other environments do not have
        "HF_HUB_OFFLINE": "1",
    }
    environ = {**os.environ, **settings}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("BENCH_JSON ")]
    if len(lines) != 1:
        sys.exit(f"{' '.join(command)} gave no figure ({done.returncode}):\n{done.stderr[-4000:]}")
    return dict(json.loads(lines[0].removeprefix("BENCH_JSON ")))
