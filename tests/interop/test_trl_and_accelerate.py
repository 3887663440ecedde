"""Exports in what builds on transformers and peft: TRL goes on training, accelerate offloads."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch
from environments import environment, run_script
from safetensors.torch import load_file
from trained_model import Record, Trained
from transformers import AutoModelForImageTextToText

from dsvl_tune.core.interop import TRL


def test_trl_goes_on_from_merged_and_adapter(trained: Trained, record: Record) -> None:
    python = environment("trl", [f"trl=={TRL}"], over_ours=True)
    asked = trained.inputs.with_suffix(".json")
    said = run_script(python, "trl_continue.py", trained.transformers, trained.adapter, asked)
    assert said.splitlines()[-1] == TRL
    record(
        f"TRL {TRL}",
        f"merged and adapter, {trained.kind}: `SFTTrainer`, `assistant_only_loss`",
        "supervises the answer and its end token; weights move",
    )


def test_parts_on_disk(trained: Trained, tmp_path: Path, record: Record) -> None:
    """As on a small GPU: `device_map` leaves on the device what fits."""
    size = (trained.transformers / "model.safetensors").stat().st_size
    model = AutoModelForImageTextToText.from_pretrained(
        trained.transformers,
        dtype=torch.float32,
        device_map="auto",
        max_memory={"cpu": int(0.7 * size)},
        offload_folder=tmp_path,
    )
    assert set(model.hf_device_map.values()) == {"cpu", "disk"}
    with torch.no_grad():
        found = model(**load_file(trained.inputs)).logits
    assert (found - trained.logits).abs().max() <= 1e-4 * trained.logits.std()
    record(
        f"accelerate {version('accelerate')}",
        f"merged, {trained.kind}: `device_map='auto'`, a part on disk",
        "same logits",
    )
