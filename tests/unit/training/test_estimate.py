"""What estimate-memory reports, against torch's own allocator and the files of a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from dsvl_tune.cli.commands.estimate_memory import main
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import IGNORE_INDEX, Batch
from dsvl_tune.families import open_checkpoint, open_sizes
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import apply_plan
from dsvl_tune.models.finetuning.plan import fit_plan, make_plan
from dsvl_tune.models.runtime.activation_checkpointing import checkpoint_activations
from dsvl_tune.training.memory.estimate import cached_feature_bytes, estimate
from dsvl_tune.training.memory.fake_step import RowShape
from dsvl_tune.training.objectives.supervised import supervised_loss

SHAPE = RowShape(rows=3, tokens=400, images=1, supervised=100)
VISUAL = 16
"""Visual tokens of an image of the tiny checkpoints."""


def planned(model: PreTrainedModel, preset: str) -> PreTrainedModel:
    apply_plan(model, fit_plan(make_plan(DEEPSEEK_VL, preset, {}), model, set()))
    return model.train()


def batch_of(model: PreTrainedModel) -> Batch:
    rows, tokens, supervised = SHAPE.rows, SHAPE.tokens, SHAPE.supervised
    ids = torch.arange(rows * tokens).view(rows, tokens) % 200 + 100
    ids[:, :VISUAL] = model.config.image_token_id
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[:, -supervised:] = ids[:, -supervised:]
    return Batch(
        input_ids=ids,
        labels=labels,
        loss_weights=(labels != IGNORE_INDEX).float(),
        position_ids=torch.arange(tokens).expand_as(ids).clone(),
        segment_ids=torch.zeros_like(ids),
        branch_ids=torch.zeros_like(ids),
        vision_inputs={
            "pixel_values": torch.randn(rows, 3, 32, 32),
            "high_res_pixel_values": torch.randn(rows, 3, 64, 64),
        },
        image_index=torch.arange(rows),
        sources=[""] * rows,
    )


def allocated_peak(model: PreTrainedModel, batch: Batch) -> int:
    """The allocator's peak in forward and backward of a step, counted from its start.

    The gradients of the step before are there until the forward is done, as in Lightning's loop.
    """
    supervised_loss(model, batch).loss.backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss = supervised_loss(model, batch).loss
        model.zero_grad()
        loss.backward()
    events = [
        event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize(
    ("preset", "checkpointing"), [("lora", False), ("lora", True), ("full", False)]
)
def test_the_step_takes_what_the_allocator_gives(
    hybrid_checkpoint: Path, preset: str, checkpointing: bool
) -> None:
    model = planned(create_model(open_checkpoint(hybrid_checkpoint)), preset)
    if checkpointing:
        checkpoint_activations(model, True)
    measured = allocated_peak(model, batch_of(model))

    outline = planned(create_model(open_sizes(hybrid_checkpoint), storage="shapes"), preset)
    found = estimate(outline, SHAPE, precision="32-true", accumulates=False)
    step = found.checkpointed if checkpointing else found.plain
    assert step.peak == pytest.approx(measured, rel=0.15)
    assert found.checkpointed.peak < found.plain.peak
    assert found.checkpointed.language_model < found.plain.language_model / 5


def table(text: str, first: str) -> dict[str, list[str]]:
    """Cells by the first cell, of the printed table whose header begins with `first`."""
    lines = text[text.index(first) :].split("\n\n")[0].splitlines()[2:]
    return {cells[0]: cells[1:] for cells in (line.split() for line in lines)}


def test_the_command_needs_config_json_alone(
    hybrid_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare").mkdir()
    shutil.copy(hybrid_checkpoint / "config.json", tmp_path / "bare" / "config.json")
    keys = [
        "--config",
        "charts_lora",
        "--model.checkpoint",
        str(tmp_path / "bare"),
        "--model.parts",
        "null",
    ]
    main([*keys, "--model.preset", "full", "--tokens", "300"])

    with safe_open(hybrid_checkpoint / "model.safetensors", framework="pt") as file:
        names = file.keys()  # `file` is no mapping: it cannot be iterated
        shapes = [file.get_slice(name).get_shape() for name in names]
    stored = sum(int(torch.tensor(shape).prod()) for shape in shapes)
    text = capsys.readouterr().out
    assert table(text, "part ")["total"][:2] == [f"{stored:,}", f"{stored:,}"]
    assert set(table(text, "GPUs ")) == {"1", "2", "4", "8"}
    assert list(path.name for path in tmp_path.iterdir()) == ["bare"]


@pytest.mark.parametrize(
    ("preset", "values"),
    [
        # SigLIP's output [16, 32], SAM's first neck [8, 8, 8] and first global layer [8, 8, 32]
        ("align", 16 * 32 + 8 * 8 * 8 + 8 * 8 * 32),
        ("pretrain", 16 * 32 + 8 * 8 * 8 + 8 * 8 * 32),
        ("lora", 16 * 48),  # visual tokens
        ("sft", None),  # SigLIP trains
    ],
)
def test_the_feature_cache_is_that_of_cache_features(
    hybrid_checkpoint: Path, preset: str, values: int | None
) -> None:
    config = open_sizes(hybrid_checkpoint).config
    size = cached_feature_bytes(DEEPSEEK_VL, config, make_plan(DEEPSEEK_VL, preset, {}))
    assert size == (None if values is None else 2 * values)


def test_a_row_that_cannot_hold_its_image_is_refused(hybrid_checkpoint: Path) -> None:
    keys = [
        "--config",
        "charts_lora",
        "--model.checkpoint",
        str(hybrid_checkpoint),
        "--tokens",
        "16",
    ]
    with pytest.raises(UserError, match="images take 16 tokens"):
        main([*keys])
