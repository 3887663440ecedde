"""What a resume depends on: other weights, code or run checkpoints are refused or named."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import Commands, assert_equal_runs, fit, last, wait_for, write_recipe

from dsvl_tune.core.errors import UserError
from dsvl_tune.training.checkpoints.files import LAST, PREVIOUS

STOP = ("--time_limit_s", "0.001")
OWN_MODULE = """
from dsvl_tune.datamodules import ChartsDataModule
from my_helper import Note

class MyCharts(ChartsDataModule):
    note = {note!r}
"""


def own_data(folder: Path, note: str) -> None:
    (folder / "my_helper.py").write_text("Note = str", encoding="utf-8")
    (folder / "my_charts.py").write_text(OWN_MODULE.format(note=note), encoding="utf-8")
    sys.modules.pop("my_charts", None)


def test_code_of_a_data_module_of_ones_own(
    hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    own_data(tmp_path, "one")
    recipe = write_recipe(tmp_path, hybrid_checkpoint, data__class_path="my_charts.MyCharts")
    assert fit(recipe, *STOP) == 75
    assert fit(recipe, *STOP) == 75
    own_data(tmp_path, "another")
    with pytest.raises(UserError, match=r"has changed: code: .*my_charts.py\. .*--ckpt_path last"):
        fit(recipe)
    own_data(tmp_path, "one")
    helper = tmp_path / "my_helper.py"
    before = helper.read_text()
    helper.write_text(before + "# edited")
    with pytest.raises(UserError, match=r"has changed: code: .*my_helper.py\."):
        fit(recipe)
    helper.write_text(before)
    assert fit(recipe) == 0


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessor_config.json"])
def test_files_of_the_base_checkpoint(name: str, hybrid_checkpoint: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(hybrid_checkpoint, tmp_path / "base"))
    recipe = write_recipe(tmp_path, base)
    assert fit(recipe, *STOP) == 75
    content = bytearray((base / name).read_bytes())
    if name.endswith("json"):
        content = bytearray(json.dumps({**json.loads(content), "min_size": 3}).encode())
    else:
        content[-4] ^= 1
    (base / name).write_bytes(content)
    with pytest.raises(UserError, match=f"has changed: base checkpoint: {name}"):
        fit(recipe)
    assert fit(recipe, "--ckpt_path", "last") == 0  # as the message says


def test_a_checkpoint_of_another_run_is_named_and_the_one_before_taken(
    whole_run: Path,
    hybrid_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = write_recipe(tmp_path, hybrid_checkpoint, checkpoint_every_steps=1)
    run = tmp_path / "runs" / "run"
    for _ in range(2):
        assert fit(recipe, *STOP) == 75
    shutil.copy(whole_run / LAST, run / LAST)
    assert fit(recipe) == 0
    assert f"{run / LAST} belongs to another run; trying" in capsys.readouterr().out
    assert_equal_runs(whole_run, run)


def torch_file(path: Path) -> None:
    torch.save([1, 2], path)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


GARBAGE = {
    "bytes": lambda path: path.write_bytes(os.urandom(3000)),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("last"),
    "torch": torch_file,
    "pipe": pipe,
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_in_the_place_of_both_checkpoints(
    kind: str,
    whole_run: Path,
    hybrid_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run begins again, and comes to the same bits."""
    recipe = write_recipe(tmp_path, hybrid_checkpoint)
    run = tmp_path / "runs" / "run"
    assert fit(recipe, *STOP) == 75
    for name in (LAST, PREVIOUS):
        (run / name).unlink(missing_ok=True)
        GARBAGE[kind](run / name)
    assert fit(recipe) == 0
    said = capsys.readouterr().out
    for name in (LAST, PREVIOUS):
        assert str(run / name) in said
    assert "from its beginning" in said
    assert_equal_runs(whole_run, run)


@pytest.mark.parametrize(
    "content",
    ["[", "a: 1", "- a", "!!python/object/apply:os.system ['touch ran']", "model: {lr: x}", ""],
)
def test_a_garbage_recipe_of_an_unfinished_run_does_not_block_its_name(
    content: str,
    hybrid_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path, hybrid_checkpoint)
    assert fit(recipe, *STOP) == 75
    config = tmp_path / "runs" / "run" / "config.yaml"
    config.write_text(content, encoding="utf-8")
    assert fit(recipe, *STOP) == 75
    assert "its recipe cannot be read" in capsys.readouterr().out or content == ""
    assert last(tmp_path / "runs" / "run-2")["global_step"] == 1
    assert config.read_text(encoding="utf-8") == content
    assert not (tmp_path / "ran").exists()


def test_checkpoints_that_torch_did_not_write_are_refused_by_name(
    hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, hybrid_checkpoint)
    for kind, make in GARBAGE.items():
        path = tmp_path / f"{kind}.ckpt"
        make(path)
        with pytest.raises(UserError, match=f"{kind}.ckpt: not a run checkpoint"):
            fit(recipe, "--ckpt_path", str(path))


def test_a_checkpoint_of_another_rank_is_refused(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, hybrid_checkpoint)
    assert fit(recipe, *STOP) == 75
    checkpoint = tmp_path / "runs" / "run" / LAST
    with pytest.raises(UserError, match="differing, e.g.: .*lora_A"):
        fit(
            recipe,
            "--model.parts.language_model.rank",
            "8",
            "--ckpt_path",
            str(checkpoint),
        )


def test_killed_just_after_its_summary_a_run_is_finished(
    hybrid_checkpoint: Path, tmp_path: Path, commands: Commands
) -> None:
    write_recipe(tmp_path, hybrid_checkpoint)
    run = tmp_path / "runs" / "run"
    process = commands.start(tmp_path, "fit", "--config", "run.yaml")
    wait_for((run / "summary.json").exists, within_s=300)
    os.killpg(process, signal.SIGKILL)
    assert commands.ends(process, within_s=300) == -signal.SIGKILL
    again = commands.start(tmp_path, "fit", "--config", "run.yaml", log="again")
    assert commands.ends(again, within_s=300) == 0
    assert "runs/run is finished" in (tmp_path / "again").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]


def catches(process: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    mask = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_the_libraries_are_imported(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dsvl_tune", "fit", "--config", "charts_lora"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: catches(process.pid, number), within_s=60)
        process.send_signal(number)
        assert process.wait(timeout=60) == 75
        assert process.stdout is not None
        assert "start it again to resume" in process.stdout.read()
    assert not (tmp_path / "runs").exists()
