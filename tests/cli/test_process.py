"""The process of a command: terminals without Unicode, no home, injected escapes, threads."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import run_console_script

from dsvl_tune.core.machine import WAIT_SETTINGS, available_cores, cgroup_cores, let_threads_sleep
from dsvl_tune.core.terminal import escape_output

OWN = Path(__file__).parents[2] / "examples" / "own_data"


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """Options for a copy of the example rows in the folder."""
    shutil.copytree(OWN, tmp_path / "own")
    options = ["--config", "charts_lora", "--data", "InstructDataModule"]
    for split, name in (("train", "train"), ("validation", "test"), ("test", "test")):
        options += [f"--data.{split}", f"own/{name}.jsonl"]
    return options


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Of a process: this one's, with a cache of its own."""
    return {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), **variables}


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["latin-1", "C"],
)
def test_characters_degrade_where_the_output_is_not_utf8(
    variables: dict[str, str], own: list[str], tmp_path: Path
) -> None:
    row = {
        "question": "Wie heiß?",
        "answer": "37 °C … \u4f60 \U0001f600",
        "image": "keins…\u4f60.png",
    }
    with (tmp_path / "own" / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    done = run_console_script(
        "check-data", *own, folder=tmp_path, env=environment(tmp_path, **variables), text=False
    )
    output = (done.stdout + done.stderr).decode("latin-1")
    assert done.returncode == 2, output
    assert "Traceback" not in output
    assert r"keins...\u4f60.png" in output


def test_nothing_from_rows_steers_the_terminal(own: list[str], tmp_path: Path) -> None:
    bad = "no\x1b[2J\x1b]0;owned\x07\nerror: forged\r.png"
    rows = [{"question": "What?", "answer": "x", "image": bad}] * 2
    rows.append({"question": "\x1b[31mWhat?", "answer": "\x9b31m", "image": "images/none\x08.png"})
    with (tmp_path / "own" / "train.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    for command in (["check-data"], ["check-data", "--json", "-"], ["preview"], ["fit"]):
        done = run_console_script(
            *command, *own, folder=tmp_path, env=environment(tmp_path), text=False
        )
        output = (done.stdout + done.stderr).decode()
        assert done.returncode == 2, output
        assert not {"\x1b", "\x07", "\x08", "\x9b"} & set(output.replace("\x1b[A", ""))
        assert "\nerror: forged" not in output
        assert "forged" in output


def test_escapes_of_progress_bars_and_colors_stay() -> None:
    bar = "\rchecking:  50%|#####     | 1/2"
    assert escape_output(bar) == bar
    assert (
        escape_output("\x1b[A\x1b[1m\x1b[2K\x1b[?25l\x1b[0m\n")
        == "\x1b[A\x1b[1m\x1b[2K\x1b[?25l\x1b[0m\n"
    )
    assert escape_output("a\rb\x1b[2J\x1b]0;t\x07") == r"a\rb\x1b[2J\x1b]0;t\x07"
    assert escape_output("\x9b2J\x08\u202e\x7f") == r"\x9b2J\x08\u202e\x7f"


NOBODY = 54_321
"""A user id without an entry in the password file."""


@pytest.fixture
def nobody(own: list[str], tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Arguments of `subprocess.run` for a user without a name, in a folder of its own."""
    folder = Path(tempfile.mkdtemp())
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    shutil.move(tmp_path / "own", folder)
    if who:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    try:
        command = [sys.executable, "-c", "import dsvl_tune.cli.main"]
        tried = subprocess.run(command, capture_output=True, check=False, cwd=folder, **who)
    except OSError:
        tried = None
    if tried is None or tried.returncode:
        pytest.skip("another user cannot run this Python")
    yield {"folder": folder, **who}
    shutil.rmtree(folder)


def check_one_note(options: list[str], homes: dict[str, str], where: dict[str, Any]) -> None:
    """A command works without its usual caches, and says so in one line."""
    hidden = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_DATASETS_CACHE", "MPLCONFIGDIR")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    done = run_console_script("check-data", *options, env={**variables, **homes}, **where)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.replace("\r", "\n").splitlines()
    notes = [line for line in lines if "cannot be written" in line or "cache" in line]
    assert len(notes) == 1, done.stderr
    assert notes[0].startswith("note: ")
    assert "no errors" in done.stdout
    assert sorted(path.name for path in where["folder"].iterdir()) == ["own"]


@pytest.mark.parametrize("variable", ["HOME", "HF_HOME"])
def test_a_home_that_cannot_be_written(variable: str, own: list[str], tmp_path: Path) -> None:
    homes = {"HOME": str(tmp_path.parent), variable: "/proc/none"}
    check_one_note(own, homes, {"folder": tmp_path})


def test_a_user_without_a_home(own: list[str], nobody: dict[str, Any]) -> None:
    check_one_note(own, {}, nobody)


def test_too_few_open_files_is_one_message(own: list[str], tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    options = ["--data.num_workers", "2", "--trainer.max_steps", "1", "--data.batch_size", "1"]
    done = run_console_script(
        "fit",
        *own,
        *options,
        folder=tmp_path,
        env=environment(tmp_path),
        preexec_fn=limit,
        timeout=300,
    )
    if done.returncode == 0:
        return  # 64 were enough
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "ulimit -n" in done.stderr


@pytest.mark.parametrize(
    ("files", "own", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, "0::/a/b\n", 0.5),
        (
            {"cpu/jobs/cpu.cfs_quota_us": "300000\n", "cpu/jobs/cpu.cfs_period_us": "100000\n"},
            "4:cpu,cpuacct:/jobs\n7:memory:/jobs\n",
            3.0,
        ),
        (
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            "4:cpu:/\n",
            None,
        ),
        ({"cpu.max": "garbage\n"}, "no colon\n", None),
        ({}, "", None),
    ],
)
def test_quotas_of_containers(
    files: dict[str, str], own: str, cores: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    assert cgroup_cores(tmp_path / "groups", tmp_path / "own") == cores
    expected = len(os.sched_getaffinity(0))
    if cores is not None:
        expected = min(expected, max(1, -(-cores // 1)))
    assert available_cores(tmp_path / "groups", tmp_path / "own") == expected


def test_affinity_is_heeded() -> None:
    one = {min(os.sched_getaffinity(0))}
    script = "from dsvl_tune.core.machine import available_cores; print(available_cores())"
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, one),
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "1"


def test_threads_sleep_unless_the_user_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAIT_SETTINGS:
        chosen = {name: "mine"}
        assert let_threads_sleep(chosen)
        assert chosen == {name: "mine"}
    assert not let_threads_sleep({})  # torch is imported here
    monkeypatch.delitem(sys.modules, "torch")
    environment: dict[str, str] = {}
    assert let_threads_sleep(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


BUSY = """
import json, os, sys, time
{prepare}
import torch
torch.set_num_threads(2)
one, two = torch.randn(96, 96), torch.randn(96, 96)
before, count = time.process_time(), 0
while count < {products}:
    torch.addmm(one, one, two).tanh_()
    count += 1
    if count % 50 == 0:
        time.sleep(0.001)  # as a step waits for data
print(json.dumps(time.process_time() - before))
"""


def test_waiting_threads_take_no_cpu_seconds_on_a_busy_machine() -> None:
    """Busy loops take both cores; what a process computes must not cost several times as much."""
    prepare = "from dsvl_tune.core.machine import let_threads_sleep; assert let_threads_sleep()"
    variables = {name: value for name, value in os.environ.items() if name not in WAIT_SETTINGS}
    variables.pop("OMP_NUM_THREADS", None)

    def cpu_seconds(prepare: str) -> float:
        script = BUSY.format(prepare=prepare, products=1_000)
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env=variables,
            cwd=Path(__file__).parents[2],
            timeout=120,
        )
        return float(json.loads(done.stdout))

    loop = "import time; end = time.monotonic() + 100\nwhile time.monotonic() < end: pass"
    quiet = cpu_seconds(prepare)
    loads = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(4)]
    try:
        busy = cpu_seconds(prepare)
    finally:
        for load in loads:
            load.kill()
            load.wait()
    assert busy < 2.0 * quiet + 0.5
