"""The tutorial's files and commands, taken from the page, run from an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from runs import wait_for

if TYPE_CHECKING:
    from runs import Commands

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "fifty-photos.md"
FILES = {"python": "make_rows.py", "yaml": "mine.yaml"}
"""What the page saves its blocks as."""


def blocks() -> list[tuple[str, str]]:
    """(language, text) of each block of the page, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def shell_commands() -> list[list[str]]:
    """Every command line of the page, split into words, in order."""
    texts = [text.replace("\\\n", " ") for language, text in blocks() if language == "sh"]
    return [shlex.split(line) for text in texts for line in text.splitlines()]


def write_files(folder: Path) -> None:
    """The files that the page has the reader save, with fewer steps."""
    for language, name in FILES.items():
        (text,) = [text for found, text in blocks() if found == language]
        short = text.replace("max_steps: 200", "max_steps: 2")
        short = short.replace("val_check_interval: 50", "val_check_interval: 2")
        assert (short != text) == (language == "yaml")
        (folder / name).write_text(short, encoding="utf-8")


def serve(words: list[str], folder: Path) -> None:
    """Start transformers' server on a free port, wait until it answers, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name(words[0])
    with subprocess.Popen(
        [program, *words[1:], "--port", str(port)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            deadline = time.monotonic() + 90
            while not answers(port):
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
        finally:
            server.terminate()


def answers(port: int) -> bool:
    """Whether a server answers."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/health") as reply:
            return reply.status == 200
    except URLError:
        return False


def test_fifty_photos(commands: Commands, tmp_path: Path) -> None:
    folder = tmp_path
    for number, words in enumerate(shell_commands()):
        if words[0] == "cd":
            folder /= words[1]
            write_files(folder)
        elif words[0] == "python":
            subprocess.run([sys.executable, *words[1:]], cwd=folder, check=True)
        elif words[0] == "transformers":
            serve(words, folder)
        elif words[1] == "demo":
            show_page(commands, words, folder)
        else:
            is_published = "deepseek" in " ".join(words)  # its weights are not here
            options = ["--print_config"] if is_published else []
            log = f"log{number}"
            process = commands.start(folder, *words[1:], *options, log=log)
            assert commands.ends(process, 120) == 0, (folder / log).read_text()
    assert (folder / "preview.html").is_file()
    assert (folder / "runs" / "invoices" / "report.html").is_file()
    assert len((folder / "train.jsonl").read_text().splitlines()) == 50


def show_page(commands: Commands, words: list[str], folder: Path) -> None:
    """Start the page, wait until it is there, and end it."""
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'dsvl-tune[demo]'")
    process = commands.start(folder, *words[1:], log="page")
    wait_for(lambda: (folder / "page").exists() and "page: " in (folder / "page").read_text(), 60)
    os.kill(process, signal.SIGINT)
    assert commands.ends(process, 20) == 130
