"""A payload in every file that a user may be given: no command runs what it brings."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import write_recipe

from dsvl_tune.cli.main import main
from dsvl_tune.core.checkpoint import EMBEDDED
from dsvl_tune.training.checkpoints.files import LAST, PREVIOUS
from dsvl_tune.training.checkpoints.shard_metadata import METADATA


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def as_torch_file(path: Path, marker: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": Payload(marker), "global_step": 1}, path)


def as_pickle(path: Path, marker: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Payload(marker)))


def as_legacy_file(path: Path, marker: Path) -> None:
    """As torch wrote until 1.5: a pickle without an archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": Payload(marker)}, path, _use_new_zipfile_serialization=False)


def as_shards(path: Path, marker: Path) -> None:
    """A folder whose metadata and rest are pickles."""
    path.mkdir(parents=True)
    as_pickle(path / METADATA, marker)
    as_torch_file(path / "rest.pt", marker)
    (path / "checksums.json").write_text("{}")


def as_tags(path: Path, marker: Path) -> None:
    """YAML that names Python objects."""
    path.write_text(f"run_dir: !!python/object/apply:os.system ['touch {marker}']\n")


FORMS: dict[str, Callable[[Path, Path], None]] = {
    "torch": as_torch_file,
    "pickle": as_pickle,
    "legacy": as_legacy_file,
    "shards": as_shards,
}
FIT = ("fit", "--config", "{run}/config.yaml")
RUN_COMMANDS = {
    "resume": FIT,
    "fit": (*FIT, "--ckpt_path", "{checkpoint}"),
    "fit last": (*FIT, "--ckpt_path", "last"),
    "merge": ("merge", "{run}", "--checkpoint", "{checkpoint}", "--rows", "0"),
    "merge last": ("merge", "{run}", "--checkpoint", "last", "--rows", "0"),
    "test": ("test", "--config", "{run}/config.yaml", "--ckpt_path", "{checkpoint}"),
    "validate": ("validate", "--config", "{run}/config.yaml", "--ckpt_path", "last"),
    "predict": ("predict", "--config", "{run}/config.yaml", "--ckpt_path", "{checkpoint}"),
}
"""Commands that load a run checkpoint."""
READERS = {
    "chat": ("chat", "--model", "{base}", "--prompt", "?", "--max_new_tokens", "1"),
    "chat adapter": ("chat", "--model", "embedded", "--adapter", "{base}", "--prompt", "?"),
    "convert": ("convert", "{base}", "{base}-there", "--to", "original"),
    "merge": ("merge", "{run}", "--base", "{base}", "--rows", "0"),
    "check-data": ("check-data", "--config", "{run}/config.yaml", "--model.checkpoint", "{base}"),
    "fit": (*FIT, "--resume", "never", "--model.checkpoint", "{base}"),
}
"""Commands that open a base checkpoint or an adapter."""
WEIGHTS = ("pytorch_model.bin", "adapter_model.bin", "model.ckpt", "training_args.bin", "model.pt")


def command(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, **places: Path) -> int:
    given = [argument.format(**places) for argument in arguments]
    monkeypatch.setattr("sys.argv", ["dsvl-tune", *given])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture
def run(whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unfinished run that somebody handed over, in the working folder."""
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(whole_run, tmp_path / "runs" / "run"))
    (run / "summary.json").unlink()
    config = (run / "config.yaml").read_text(encoding="utf-8")
    before = str(whole_run.parent)
    (run / "config.yaml").write_text(config.replace(before, "runs"), encoding="utf-8")
    return run


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, "torch") for name in RUN_COMMANDS),
        *((name, form) for name in ("resume", "fit", "merge") for form in FORMS if form != "torch"),
    ],
)
def test_run_checkpoints(name: str, form: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = run / "ran"
    for place in (LAST, PREVIOUS):
        (run / place).unlink()
        FORMS[form](run / place, marker)
    code = command(RUN_COMMANDS[name], monkeypatch, run=run, checkpoint=run / LAST)
    assert not marker.exists()
    # A run whose checkpoints cannot be used begins again.
    assert code == (0 if name == "resume" else 2)


@pytest.mark.parametrize("name", READERS)
def test_base_checkpoints_and_adapters(
    name: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of the weights, and as files that are never asked for."""
    marker = run / "ran"
    base = Path(shutil.copytree(EMBEDDED, run.parent / "base"))
    (base / "SHA256SUMS").unlink(missing_ok=True)
    for form in (as_torch_file, as_pickle, as_legacy_file):
        for file in ("model.safetensors", *WEIGHTS):
            form(base / file, marker)
        assert command(READERS[name], monkeypatch, run=run, base=base) == 2
        (base / "model.safetensors").unlink()
        assert command(READERS[name], monkeypatch, run=run, base=base) == 2
    assert not marker.exists()


def test_keys_that_name_code(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers imports the module that `auto_map` names where it is told to trust a folder."""
    base = Path(shutil.copytree(EMBEDDED, run.parent / "base"))
    (base / "SHA256SUMS").unlink(missing_ok=True)
    (base / "evil.py").write_text(f"open({str(run / 'ran')!r}, 'w')\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(base)
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        content = json.loads((base / name).read_text(encoding="utf-8"))
        kinds = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoProcessor")
        content |= {"auto_map": dict.fromkeys(kinds, "evil.Evil"), "trust_remote_code": True}
        (base / name).write_text(json.dumps(content), encoding="utf-8")
    for reader in ("chat", "convert", "check-data"):
        command(READERS[reader], monkeypatch, run=run, base=base)
    assert not (run / "ran").exists() and "evil" not in sys.modules


@pytest.mark.parametrize("name", ["resume", "merge last", "test", "predict"])
def test_recipes(name: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config.yaml of a run with tags of Python; what resumes it reads its own recipe."""
    marker = run / "ran"
    as_tags(run / "config.yaml", marker)
    code = command(RUN_COMMANDS[name], monkeypatch, run=run, checkpoint=run / LAST)
    assert code == 2 and not marker.exists()


def test_caches(hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that a run keeps for later is read as what it is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(
        tmp_path,
        hybrid_checkpoint,
        model={
            "checkpoint": str(hybrid_checkpoint),
            "max_new_tokens": 2,
            "feature_cache": str(tmp_path / "cache" / "features"),
        },
        data__init_args__pixel_cache_gb=1.0,
        trainer__max_steps=2,
    )
    arguments = ("fit", "--config", str(recipe))
    assert command(arguments, monkeypatch) == 0
    marker = tmp_path / "ran"
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        as_pickle(path, marker)
    assert command((*arguments, "--resume", "never"), monkeypatch) == 0
    assert not marker.exists()


def test_the_payload_works(tmp_path: Path) -> None:
    """Else the tests above would show nothing."""
    for number, form in enumerate((as_torch_file, as_pickle, as_legacy_file)):
        path, marker = tmp_path / f"{number}.pt", tmp_path / f"ran{number}"
        form(path, marker)
        if form is as_pickle:
            pickle.loads(path.read_bytes())
        else:
            torch.load(path, weights_only=False)
        assert marker.exists()
    assert zipfile.is_zipfile(tmp_path / "0.pt")
