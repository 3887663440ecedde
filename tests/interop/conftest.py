"""Trained models exported for other people's software, and the table of what was run.

These tests make environments, which takes minutes and a package index: `make interop` runs them.
"""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import pytest
import torch
from random_training import train_randomly
from safetensors.torch import save_file
from trained_model import Record, Trained
from transformers import AutoTokenizer

from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.data.encoding.collate import collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.export.merge_adapter import check_changes, merge_into, read_changes
from dsvl_tune.export.verify import inputs_of
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import load_trained, save_trained

GOLDEN = Path(__file__).parents[1] / "golden"
PARTS = {
    "language_model": PartPlan("lora", rank=4),
    "siglip": PartPlan("lora", rank=2),
    "aligner": PartPlan("full"),
}
QUESTION = "What is this?"
TOKENS = 12
ROWS: list[tuple[str, str, str]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.interop)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table that docs/interop.md has."""
    if ROWS:
        terminalreporter.write_line(f"\nPython {platform.python_version()}, {platform.machine()}")
        terminalreporter.write_line("| software | what was run | result |\n|---|---|---|")
        for row in ROWS:
            terminalreporter.write_line(f"| {' | '.join(row)} |")


@pytest.fixture
def record() -> Record:
    """Add a row to the table that is printed at the end."""
    return lambda software, what, result: ROWS.append((software, what, result))


@pytest.fixture(scope="session", params=["hybrid", "siglip", "janus"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The golden checkpoint of each kind, trained at random."""
    home = tmp_path_factory.mktemp(request.param)
    golden = GOLDEN / request.param / "checkpoint"
    folders = {}
    for name in ("base", "transformers", "original"):
        folders[name] = home / name
        folders[name].mkdir()
    merge_into(Weights(open_checkpoint(golden)), {}, folders["base"], "transformers", torch.float32)
    # A base that never was original: transformers saved its tokenizer, no settings are kept.
    shutil.rmtree(folders["base"] / "original")
    AutoTokenizer.from_pretrained(folders["base"]).save_pretrained(folders["base"])
    adapter = home / "adapter"
    base = open_checkpoint(folders["base"])
    save_trained(train_randomly(folders["base"], PARTS), adapter, base)
    for layout in ("transformers", "original"):
        weights, changes = Weights(base), read_changes(adapter, base.family)
        check_changes(weights, changes)
        merge_into(weights, changes, folders[layout], layout, torch.float32)

    # Square, so that transformers' image processor resizes it as the original's does.
    image = GOLDEN / request.param / "images" / "badge_rgba.png"
    processor = base.processor
    turn = Turn("user", (ImageRef(image, "image"), QUESTION))
    prompt = encode_prompt(Conversation((turn,), "row"), processor)
    prompts = normalize_images(collate_prompts([prompt], processor.pad_id), processor)
    model = create_model(base)
    load_trained(model, adapter)
    inputs = inputs_of(model, prompts)
    with torch.no_grad():
        logits = model(**inputs).logits
        ids = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    save_file({n: t.contiguous() for n, t in inputs.items()}, home / "inputs.safetensors")
    asked = {"image": str(image), "question": QUESTION, "tokens": TOKENS}
    (home / "inputs.json").write_text(json.dumps(asked), encoding="utf-8")
    return Trained(
        kind=request.param,
        **folders,
        adapter=adapter,
        inputs=home / "inputs.safetensors",
        logits=logits,
        greedy_ids=ids[:, inputs["input_ids"].shape[1] :],
    )
