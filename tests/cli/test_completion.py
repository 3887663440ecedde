"""Tab completion, by a real bash."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
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
