"""`push`: what the hub has afterwards is the folder, and nothing private is sent."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from upload_server import TOKEN, UploadServer, serving

from dsvl_tune.cli.main import main
from dsvl_tune.export.private_paths import private_paths


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadServer]:
    """A hub, and what HF_ENDPOINT and HF_HUB_DISABLE_XET set when the client is imported."""
    with serving() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # another service takes those
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with a merged checkpoint and an adapter on a local base."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "mine"
    for name in ("merged/.cache", "adapter"):
        (folder / name).mkdir(parents=True)
    (folder / "config.yaml").write_text("model: {checkpoint: base}\n")
    (folder / "merged" / "config.json").write_text('{"model_type": "deepseek_vl"}')
    (folder / "merged" / "README.md").write_text("# Mine\n\n## Samples\n\n| a |\n")
    (folder / "merged" / ".cache" / "junk").write_text("hidden")
    save_file({"w": torch.arange(6.0)}, folder / "merged" / "model.safetensors")
    config = {"base_model_name_or_path": str(tmp_path / "base")}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter" / "README.md").write_text(f"base: `{tmp_path / 'base'}`\n")
    save_file({"a": torch.ones(2)}, folder / "adapter" / "adapter_model.safetensors")
    return folder


def push(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """`dsvl-tune push` in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "push", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_repository_is_the_folder(
    server: UploadServer,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert push(monkeypatch, str(run), "me/mine", "--create", "true") == 0
    said = capsys.readouterr().out
    assert "pushed 3 files" in said and f"{server.url}/me/mine/commit/" in said
    assert "README.md shows held-out questions" in said
    assert server.private == {"me/mine": True}
    # What the repository had: old weights are gone, a file of its owner's stays.
    assert server.branches["me/mine", "main"] == {**contents(run / "merged"), "notes.md": b"mine"}
    assert [commit["summary"] for commit in server.commits] == ["Upload by dsvl-tune"]
    assert push(monkeypatch, str(run / "merged"), "me/mine", "--message", "again") == 0
    assert server.commits[-1]["summary"] == "again"


def test_a_public_repository_and_a_branch(
    server: UploadServer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--create=true", "--private=false", "--revision=v2"]
    assert push(monkeypatch, str(run), "me/mine", *options) == 0
    assert server.private == {"me/mine": False}
    assert server.branches["me/mine", "v2"] == contents(run / "merged")
    assert "model.safetensors" not in server.branches["me/mine", "main"]


def test_an_adapter_names_its_base_on_the_hub(
    server: UploadServer,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [str(run), "me/lora", "--adapter=true", "--create=true"]
    assert push(monkeypatch, *options) == 2
    refused = capsys.readouterr().err
    assert "paths of this machine" in refused and "adapter_config.json, line 1" in refused
    assert not server.private
    assert push(monkeypatch, *options, "--base=owner/base") == 0
    sent = server.branches["me/lora", "main"]
    assert json.loads(sent["adapter_config.json"])["base_model_name_or_path"] == "owner/base"
    assert sent["README.md"] == b"base: `owner/base`\n"
    weights = "adapter_model.safetensors"
    assert sent[weights] == (run / "adapter" / weights).read_bytes()
    assert str(run.parents[1]) in (run / "adapter" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "me/none"], "If it does not exist, --create true makes it"),
        (["{run}", "mine", "--create=true"], "expected OWNER/NAME"),
        (["{run}", "me/mine", "--base=a/b"], "only an adapter names its base"),
        (["{run}/..", "me/mine"], "no config.json with weights next to it"),
        (["{run}/merged", "me/mine", "--adapter=true"], "holds no adapter"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    arguments: list[str],
    message: str,
    server: UploadServer,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert push(monkeypatch, *(one.replace("{run}", str(run)) for one in arguments)) == 2
    assert message in capsys.readouterr().err
    assert not server.commits


def test_a_wrong_token_and_a_missing_branch(
    server: UploadServer,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert push(monkeypatch, str(run), "me/mine", "--create=true") == 0
    assert push(monkeypatch, str(run), "me/mine", "--revision=v9") == 2
    assert "no branch v9: --create true makes it" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert push(monkeypatch, str(run), "me/mine") == 2
    assert "log in with `hf auth login`, or set HF_TOKEN" in capsys.readouterr().err


def test_a_run_that_is_not_merged(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "merged" / "model.safetensors").unlink()
    assert push(monkeypatch, str(run), "me/mine") == 2
    assert "the run is not merged. Run dsvl-tune merge" in capsys.readouterr().err


def test_private_paths_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {
        "/home/me/rows.jsonl": True,
        'train: "/mnt/disk/a"': True,
        r"C:\Users\me\rows": True,
        "(~/data)": True,
        "https://example.org/home/page": False,
        "owner/data/set and a/home/b": False,
        "`/api/generate`": False,
        '"base_model_name_or_path": "/gpfs/me/base"': True,
        '"base_model_name_or_path": "owner/base"': False,
    }
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("\n".join(lines))
    (tmp_path / "tokenizer.json").write_text('"/home/me/"')
    found = {one.line for one in private_paths(sorted(tmp_path.iterdir()))}
    assert found == {number for number, is_path in enumerate(lines.values(), 1) if is_path}
