"""Tab completion, by a real bash and a real zsh."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsvl_tune.cli.main import COMMANDS, main


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `dsvl-tune completion bash` prints."""
    path = tmp_path_factory.mktemp("completion") / "dsvl-tune.bash"
    path.write_text(print_completion("bash"), encoding="utf-8")
    return path


def print_completion(shell: str) -> str:
    import io
    from contextlib import redirect_stdout

    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", ["dsvl-tune", "completion", shell])
        main()
    return printed.getvalue()


def completed(script: Path, line: str) -> set[str]:
    """What bash offers for the last word of a command line."""
    words = [*shlex.split(line), *([""] if line.endswith(" ") else [])]
    array = " ".join(map(shlex.quote, words))
    code = f"""
source {shlex.quote(str(script))}
COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; COMP_LINE={shlex.quote(line)}
COMP_POINT=${{#COMP_LINE}}
function=$(complete -p dsvl-tune | sed -E 's/.*-F ([^ ]+).*/\\1/')
$function dsvl-tune {shlex.quote(words[-1])} {shlex.quote(words[-2])}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", code],
        capture_output=True,
        text=True,
        cwd=script.parent,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_options_recipes_and_files(script: Path) -> None:
    assert completed(script, "dsvl-tune ") >= set(COMMANDS)
    assert completed(script, "dsvl-tune re") == {"report", "recipes"}
    assert completed(script, "dsvl-tune fit --mon") == {"--monitor"}
    assert "--model.lr" in completed(script, "dsvl-tune sweep --model.l")
    assert completed(script, "dsvl-tune fit --config docv") == {"docvqa"}
    assert completed(script, "dsvl-tune merge --layout ") == {"transformers", "original"}
    (script.parent / "my_run").mkdir(exist_ok=True)
    assert "my_run" in completed(script, "dsvl-tune report my_")


def test_zsh_gets_the_same(script: Path) -> None:
    text = print_completion("zsh")
    assert text.startswith("#compdef dsvl-tune") and "charts_lora" in text
    assert all(f"{command.replace('-', '_')}_options=(" in text for command in COMMANDS)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("dsvl-tune rep", "dsvl-tune report "),
        ("dsvl-tune fit --mon", "dsvl-tune fit --monitor "),
        ("dsvl-tune fit --config docv", "dsvl-tune fit --config docvqa "),
        ("dsvl-tune merge --layout ", "original      transformers"),
        ("dsvl-tune report my_", "dsvl-tune report my_run/"),
    ],
)
def test_zsh_completes_what_is_typed(typed: str, shown: str, tmp_path: Path) -> None:
    """zsh completes in an interactive shell alone, so it gets a terminal."""
    import pty

    (tmp_path / "_dsvl-tune").write_text(print_completion("zsh"), encoding="utf-8")
    (tmp_path / "my_run").mkdir()
    terminal, own_end = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"],
        stdin=own_end,
        stdout=own_end,
        stderr=own_end,
        cwd=tmp_path,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "200"},
        start_new_session=True,
    )
    try:
        load = "fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -d dump; echo REA''DY\n"
        os.write(terminal, load.encode())
        read_until(terminal, "READY")
        os.write(terminal, f"{typed}\t\t".encode())
        read_until(terminal, shown)
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)
        os.close(own_end)


def read_until(terminal: int, expected: str, seconds: float = 60.0) -> None:
    """Read what a terminal shows until a text is there; fail if it does not come."""
    text = ""
    end = time.monotonic() + seconds
    while expected not in text:
        assert time.monotonic() < end, text
        if select.select([terminal], [], [], 0.2)[0]:
            text += os.read(terminal, 65_536).decode(errors="replace")
