"""A folder of shards that cannot be written leaves the one before, whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# A limit on file size stands in for the full disk.
SCRIPT = """
import resource, signal, sys
from pathlib import Path
import torch
from torch import distributed
from dsvl_tune.core.errors import UserError
from dsvl_tune.training.checkpoints.sharded_io import read_folder, write_folder

distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
path, weight = Path(sys.argv[1]) / "last.ckpt", torch.randn(50_000)
state = {0: {"step": torch.tensor(1.0), "exp_avg": 2 * weight}}
groups = [{"params": [0], "param_names": ["model.weight"], "lr": 1.0}]
slots = [{"state": state, "param_groups": groups}]
checkpoint = {"state_dict": {"model.weight": weight}, "optimizer_states": slots}
write_folder(path, {**checkpoint, "global_step": 3})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    write_folder(path, {**checkpoint, "global_step": 4})
except UserError as error:
    print(error)
read = read_folder(path, {}, optimizer=True)
slots = read["optimizer_states"][0]["state"][0]
assert read["global_step"] == 3 and slots["step"] == 1
assert torch.equal(read["state_dict"]["model.weight"], weight)
assert torch.equal(slots["exp_avg"], 2 * weight)
"""


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "could not be written" in done.stdout and "Earlier checkpoints are unchanged" in done.stdout
    )
