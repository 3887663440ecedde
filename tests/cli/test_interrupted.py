"""The command itself under a full disk, under Ctrl-C, and with output that nobody reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model

RECIPE = """
model:
  checkpoint: {checkpoint}
  max_new_tokens: 2
data:
  class_path: dsvl_tune.datamodules.ChartsDataModule
  init_args:
    train_charts: 400
    validation_charts: 1
    test_charts: 1
    retention_scenes: 0
    batch_size: 1
    questions: 2
trainer: {{max_steps: 400, val_check_interval: 3, enable_progress_bar: false}}
"""
COMMAND = [sys.executable, "-m", "dsvl_tune", "fit", "--config", "recipe.yaml"]
# A limit on file size stands in for the full disk: the kernel refuses the bytes beyond it. It comes
# into force once the first checkpoint is written, and is below that file's size.
LIMITED = """
import resource, signal, sys

from dsvl_tune.cli.main import main
from dsvl_tune.training.callbacks.last_checkpoint import LastCheckpoint

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
plain = LastCheckpoint.on_train_batch_end


def limited(self, trainer, module, *rest):
    if trainer.global_step == 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    plain(self, trainer, module, *rest)


LastCheckpoint.on_train_batch_end = limited
sys.argv = ["dsvl-tune", "fit", "--config", "recipe.yaml"]

main()
"""


def heed_interrupts() -> None:
    """For a shell's background job, which the tests may be: it passes on that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    tmp_path: Path, hybrid_checkpoint: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.format(checkpoint=hybrid_checkpoint), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert ".ckpt: the checkpoint could not be written (File too large). It needs" in done.stderr
    checkpoint = torch.load(
        tmp_path / "runs" / "recipe" / "checkpoints" / "last.ckpt", weights_only=True
    )
    assert checkpoint["global_step"] == 3


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path: Path, hybrid_checkpoint: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.format(checkpoint=hybrid_checkpoint), encoding="utf-8"
    )
    with subprocess.Popen(
        COMMAND,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_interrupts,
    ) as process:
        last = tmp_path / "runs" / "recipe" / "checkpoints" / "last.ckpt"
        while not last.exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=300)
    assert "stopping after this optimizer step" in output
    assert "start it again to resume" in output
    assert process.returncode == 130
    state = torch.load(last, weights_only=True)
    assert 3 <= state["global_step"] < 400
    assert create_model(open_checkpoint(hybrid_checkpoint))  # the base was only read


def test_ctrl_c_leaves_the_answers_of_before(tmp_path: Path, hybrid_checkpoint: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.format(checkpoint=hybrid_checkpoint), encoding="utf-8"
    )
    earlier = '{"source": "charts", "answer": "of yesterday", "complete": true}'
    (tmp_path / "answers.jsonl").write_text(earlier, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "dsvl_tune",
        "predict",
        "--config",
        "recipe.yaml",
        "--out",
        "answers.jsonl",
    ]
    many = ["--data.test_charts", "400", "--data.eval_batch_size", "1"]
    with subprocess.Popen(
        [*command, *many],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    ) as process:
        assert process.stderr is not None
        error = ""
        while "Loading weights" not in error and (character := process.stderr.read(1)):
            error += character
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=300)
    assert process.returncode == 130, error + rest
    assert "Traceback" not in rest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "recipe.yaml"]
    assert (tmp_path / "answers.jsonl").read_text(encoding="utf-8") == earlier


@pytest.mark.parametrize("arguments", [["--help"], COMMAND[3:]], ids=["help", "a run"])
@pytest.mark.parametrize("stderr_too", [False, True], ids=["", "with standard error"])
def test_output_that_nobody_reads_ends_the_command_quietly(
    arguments: list[str], stderr_too: bool, tmp_path: Path, hybrid_checkpoint: Path
) -> None:
    """As `| head -1` does, with a reader that is gone from the start."""
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.format(checkpoint=hybrid_checkpoint), encoding="utf-8"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with (tmp_path / "stderr").open("w") as stderr, os.fdopen(writer, "w") as unread:
        done = subprocess.run(
            [*COMMAND[:3], *arguments],
            cwd=tmp_path,
            stdout=unread,
            stderr=unread if stderr_too else stderr,
            check=False,
        )
    assert done.returncode == 128 + signal.SIGPIPE
    said = (tmp_path / "stderr").read_text(encoding="utf-8")
    assert "Traceback" not in said
    assert "BrokenPipeError" not in said
