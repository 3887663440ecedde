"""`dsvl-tune merge` from outside: both layouts, the files copied along, no output on a mismatch."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsvl_tune.cli.main import main
from dsvl_tune.core.checkpoint.weight_headers import read_headers
from dsvl_tune.core.errors import UserError
from dsvl_tune.export import verify as verification
from dsvl_tune.export.write_weights import compare_weights, unchanged
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights

RECIPE = """
model:
  checkpoint: base
  max_new_tokens: 2
  lr: 1.0e-2
  parts:
    language_model: {mode: lora, rank: 4}
    aligner: {mode: lora, rank: 2, alpha: 3}
    sam_neck_hd: {mode: full}
data:
  class_path: dsvl_tune.datamodules.ChartsDataModule
  init_args:
    train_charts: 8
    validation_charts: 1
    test_charts: 2
    retention_scenes: 0
    batch_size: 1
    questions: 2
trainer: {max_steps: 2, val_check_interval: 2, enable_progress_bar: false}
"""


def run(patch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command."""
    patch.setattr(sys, "argv", ["dsvl-tune", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(scope="module")
def trained(hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, its license and a short run that trained adapters and parameters."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(hybrid_checkpoint, folder / "base")
    (folder / "base" / "LICENSE").write_text("terms", encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(patch, "fit", "--config", "recipe.yaml") == 0
    return folder


def test_both_layouts_hold_the_same_model(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    assert run(monkeypatch, "merge", "runs/recipe", "--out", "plain") == 0
    said = capsys.readouterr().out
    assert run(monkeypatch, "merge", "runs/recipe", "--out", "there", "--layout", "original") == 0
    assert (
        json.loads(Path("there/config.json").read_text(encoding="utf-8"))["model_type"]
        == "multi_modality"
    )
    one, two = (
        create_model(open_checkpoint(Path(name))).state_dict() for name in ("plain", "there")
    )
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    base = create_model(open_checkpoint(Path("base"))).state_dict()
    assert not torch.equal(one["model.high_res_vision_alpha"], base["model.high_res_vision_alpha"])

    report = json.loads(Path("plain/merge_report.json").read_text(encoding="utf-8"))
    assert (
        0
        <= report["mean_logit_difference"]
        <= min(report["max_logit_difference"], report["mean_bound"])
    )
    exact = report["float64"]
    assert 0 <= exact["mean_logit_difference"] <= exact["mean_bound"]
    assert 0 <= exact["reload_difference"] <= exact["reload_bound"]
    assert report["greedy_agreement"] == 1.0
    changed = report["changed_tensors"]
    assert (
        changed["aligner"] == 3
        and changed["language_model"] == 14
        and 1 <= changed["sam_neck_hd"] <= 7
    )
    assert "language_model 14" in said and "greedy answers equal: 100.0 %" in said

    card = Path("plain/README.md").read_text(encoding="utf-8")
    manifest = json.loads(Path("runs/recipe/manifest.json").read_text(encoding="utf-8"))
    for text in ("relaxed_accuracy", "rank 4", "curves.png", "equal answers", "military"):
        assert text in card
    assert "DeepSeek Model License" in card
    audit = json.loads(Path("plain/audit.json").read_text(encoding="utf-8"))
    assert audit["data"]["class_path"].endswith("ChartsDataModule")
    assert audit["plan"]["language_model"]["rank"] == 4
    assert audit["base"]["sha256"] == manifest["checkpoint"]["sha256"]
    assert audit["versions"]["peft"] == manifest["libraries"]["peft"]
    assert any("language_model 14" in line for line in audit["verification"])
    assert Path("plain/LICENSE").read_text(encoding="utf-8") == "terms"
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd="plain", check=True)


def test_another_dtype(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    assert (
        run(
            monkeypatch,
            "merge",
            "runs/recipe",
            "--out",
            "half",
            "--layout",
            "original",
            "--dtype",
            "bfloat16",
        )
        == 0
    )
    assert {stored.dtype for stored in read_headers(Path("half")).values()} == {"BF16"}
    assert (
        json.loads(Path("half/config.json").read_text(encoding="utf-8"))["torch_dtype"]
        == "bfloat16"
    )


def test_a_mismatch_fails_and_leaves_nothing(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    monkeypatch.setattr(verification, "LIMIT", -1.0)
    assert run(monkeypatch, "merge", "runs/recipe", "--out", "wrong") == 2
    assert "the written checkpoint does not load as it was written" in capsys.readouterr().err
    assert not list(Path().glob("*wrong*")) and not list(Path().glob(".*wrong*"))


def test_a_tensor_that_was_not_trained_must_be_the_bases(
    hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(hybrid_checkpoint, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    name = "model.language_model.norm.weight"
    tensors[name] = tensors[name].nextafter(torch.tensor(9.0))  # one bit
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    one, two = (Weights(open_checkpoint(folder)) for folder in (hybrid_checkpoint, other))
    trained = lambda key, base: tensors[name] if key == name else base  # noqa: E731
    assert compare_weights(one, two, trained, None) == [name]
    with pytest.raises(UserError, match=f"{name} is not the base's"):
        compare_weights(one, two, unchanged, None)
    with pytest.raises(UserError, match=f"{name} is not what was trained"):
        compare_weights(one, one, trained, None)


def test_a_base_that_changed_is_noticed(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    shutil.copytree("base", "moved")
    tensors = load_file("base/model.safetensors")
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, "moved/model.safetensors", metadata={"format": "pt"})
    Path("base").rename("kept")
    Path("moved").rename("base")
    try:
        assert run(monkeypatch, "merge", "runs/recipe", "--out", "changed") == 2
        assert "not those that runs/recipe was trained from" in capsys.readouterr().err
        assert run(monkeypatch, "merge", "runs/recipe", "--out", "changed", "--base", "base") == 0
        assert "other files than the run was trained from" in capsys.readouterr().out
    finally:
        shutil.rmtree("base")
        Path("kept").rename("base")


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "full_parts.safetensors"])
def test_a_damaged_adapter_is_refused(
    file: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    path = trained / "runs" / "recipe" / "adapter" / file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    try:
        assert run(monkeypatch, "merge", "runs/recipe", "--out", "damaged") == 2
    finally:
        path.write_bytes(whole)
    assert f"{file}: expected a safetensors file" in capsys.readouterr().err
    assert not (trained / "damaged").exists()


def test_a_checkpoint_of_the_run_merges_to_the_same(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint is the result; without rows nothing is verified, and the card says so."""
    monkeypatch.chdir(trained)
    assert run(monkeypatch, "merge", "runs/recipe", "--out", "result") == 0
    assert (
        run(
            monkeypatch,
            "merge",
            "runs/recipe",
            "--out",
            "kept",
            "--checkpoint",
            "last",
            "--rows",
            "0",
        )
        == 0
    )
    one, two = (load_file(Path(name) / "model.safetensors") for name in ("result", "kept"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    card = Path("kept/README.md").read_text(encoding="utf-8")
    assert "was not loaded again" in card and "Not measured for this checkpoint, last" in card
    assert not list(Path("runs/recipe").glob(".adapter*"))
    # What a killed merge left goes; what another one works in stays.
    abandoned, used = (Path("runs/recipe", f".adapter-{name}") for name in ("abandoned", "used"))
    for folder in (abandoned, used):
        folder.mkdir()
        (folder / "adapter_config.json").touch()
    handle = os.open(used, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert run(monkeypatch, "merge", "runs/recipe", "--out", "third", "--rows", "0") == 0
        assert used.exists() and not abandoned.exists()
    finally:
        os.close(handle)
    assert (
        run(monkeypatch, "merge", "runs/recipe", "--out", "none", "--checkpoint", "nowhere.ckpt")
        == 2
    )
