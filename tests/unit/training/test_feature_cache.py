"""Loss and every gradient with cached features equal those without, whatever trains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.family import PartPlan, Plan
from dsvl_tune.core.types import Batch
from dsvl_tune.datamodules import InstructDataModule
from dsvl_tune.evaluation.generation.generate import generate_ids
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.families.deepseek_vl.vision_features import cacheable_features
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import apply_plan
from dsvl_tune.models.finetuning.plan import make_plan, part_names
from dsvl_tune.training.feature_cache import FeatureExtractor, open_feature_extractor
from dsvl_tune.training.objectives.supervised import supervised_loss

FULL, LORA = PartPlan("full"), PartPlan("lora", rank=4)
ALIGNER = {"siglip", "sam"}
PLANS: dict[str, tuple[dict[str, PartPlan], set[str]]] = {
    "aligner frozen": ({}, {"aligned"}),
    "aligner trained": ({"aligner": FULL}, ALIGNER),
    "aligner with lora": ({"aligner": LORA}, ALIGNER),
    "nothing but the aligner": ({"aligner": FULL, "language_model": PartPlan()}, ALIGNER),
    "stage 1": (
        {"aligner": FULL, "downsample": FULL, "sam_neck_hd": FULL},
        {"siglip", "sam_neck", "sam_global"},
    ),
    "sam_neck": ({"sam_neck": FULL}, {"siglip", "sam_last", "sam_neck_hd"}),
    "both necks": ({"sam_neck": FULL, "sam_neck_hd": FULL}, {"siglip", "sam_last", "sam_global"}),
    "downsample": ({"downsample": FULL}, {"siglip", "sam_neck", "sam_neck_hd"}),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trees of two questions, several images, an image after an answer, and text only."""
    folder = tmp_path_factory.mktemp("rows")
    for i in range(4):
        noise = torch.randint(
            0, 255, (30 + i, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i)
        )
        Image.fromarray(noise.numpy()).save(folder / f"{i}.png")

    def row(*pairs: tuple[str, str], images: tuple[int, ...] = ()) -> dict[str, Any]:
        turns = [
            (role, text)
            for pair in pairs
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        messages = [{"role": role, "content": text} for role, text in turns]
        return {"messages": messages, "images": [f"{i}.png" for i in images]}

    content = [
        row(("<image>What?", "A"), images=(0,)),
        row(("<image>How many?", "7, or 8"), images=(0,)),
        row(("<image> or <image>?", "The first."), ("And <image>?", "No."), images=(1, 2, 1)),
        row(("Name a color.", "Blue.")),
        row(("<image>And this?", "B"), images=(3,)),
        row(("<image>This again?", "C"), images=(2,)),
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, content)))
    return folder / "rows.jsonl"


def model_of(checkpoint: Path, overrides: dict[str, PartPlan]) -> tuple[PreTrainedModel, Plan]:
    """A model with its plan applied; what starts at zero is drawn, so no gradient is zero."""
    model = create_model(open_checkpoint(checkpoint))
    parts = part_names(model)
    plan = {
        part: how
        for part, how in make_plan(DEEPSEEK_VL, "lora", overrides).items()
        if part in parts
    }
    torch.manual_seed(1)
    apply_plan(model, plan)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model, plan


def data_of(
    checkpoint: Path, rows: Path, extractor: FeatureExtractor | None = None
) -> InstructDataModule:
    data = InstructDataModule(
        str(rows), validation=str(rows), checkpoint=str(checkpoint), batch_size=2, seed=1
    )
    data.setup("fit")
    if extractor:
        data.use_feature_cache(extractor.cache)
    return data


def open_(
    model: PreTrainedModel, plan: Plan, root: Path, dtype: Any = "float32"
) -> FeatureExtractor:
    return open_feature_extractor(model, plan, str(root), dtype, 1.0, "32-true")


def batches_of(data: InstructDataModule, extractor: FeatureExtractor | None) -> Iterator[Batch]:
    for batch in data.train_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        yield extractor.with_features(batch, nullcontext()) if extractor else batch


def step(
    model: PreTrainedModel, data: InstructDataModule, extractor: FeatureExtractor | None
) -> dict[str, Tensor]:
    """The loss of each micro-batch, the gradient of all of them together, and the answers."""
    found: dict[str, Tensor] = {}
    for i, batch in enumerate(batches_of(data, extractor)):
        loss = supervised_loss(model, batch).loss
        loss.backward()
        found[f"loss {i}"] = loss.detach()
    found |= {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    (prompts,) = (data.on_after_batch_transfer(prompts, 0) for prompts in data.val_dataloader()[1])
    answers = generate_ids(
        model,
        extractor.with_features(prompts, nullcontext()) if extractor else prompts,
        max_new_tokens=5,
    )
    return found | {"answers": answers}


def assert_equal(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(got) == set(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(
            got[name], tensor, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: name + text
        )
    assert torch.equal(got["answers"], wanted["answers"])


def entries(extractor: FeatureExtractor) -> list[Path]:
    return sorted((extractor.cache.root / extractor.cache.folder).rglob("*.safetensors"))


@pytest.mark.parametrize("name", PLANS)
def test_steps_with_features_equal_steps_with_pixels(
    name: str, checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    overrides, cut = PLANS[name]
    model, plan = model_of(checkpoint, {part: how for part, how in overrides.items()})
    if any(part not in plan for part in overrides):
        pytest.skip("a part of the hybrid family")
    hybrid = "sam" in plan
    wanted = step(model, data_of(checkpoint, rows), None)
    assert any(
        float(tensor.abs().max()) > 1e-3 for key, tensor in wanted.items() if "aligner" in key
    ) == ("aligner" in overrides)

    extractor = open_(model, plan, tmp_path)
    assert set(extractor.producers) == (cut if hybrid else cut - {"sam"})
    data = data_of(checkpoint, rows, extractor)
    assert not data.has_all_features()
    # Nothing is cached yet: every image is encoded and added.
    assert_equal(step(model, data, extractor), wanted)
    assert len(entries(extractor)) == 4 and data.has_all_features()

    batches = list(data.train_dataloader())
    assert not any(batch.vision_inputs for batch in batches)
    assert sum(len(next(iter(batch.features.values()))) for batch in batches if batch.features) >= 4
    assert_equal(step(model, data, extractor), wanted)

    for path in entries(extractor):  # remove one so that some batch has both kinds
        path.rename(tmp_path / "away")
        kinds = [(bool(b.features), bool(b.vision_inputs)) for b in data.train_dataloader()]
        if (True, True) in kinds:
            break
        (tmp_path / "away").rename(path)
    assert (True, True) in kinds and not data.has_all_features()
    assert_equal(step(model, data, extractor), wanted)

    extractor.unload()
    assert not any(name.startswith("model.vision_model.") for name, _ in model.named_parameters())
    assert_equal(step(model, data, extractor), wanted)


def test_a_missing_image_without_towers_is_an_error(
    hybrid_checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    model, plan = model_of(hybrid_checkpoint, {})
    extractor = open_(model, plan, tmp_path)
    data = data_of(hybrid_checkpoint, rows, extractor)
    list(batches_of(data, extractor))
    extractor.unload()
    path = entries(extractor)[0]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"rows\.jsonl.*--ckpt_path last"):
        list(batches_of(data, extractor))
    assert (
        not data.has_all_features()
    )  # the damaged entry is gone, so the next start loads the towers


def test_bfloat16_is_within_its_bound_and_the_same_in_every_epoch(
    hybrid_checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    model, plan = model_of(hybrid_checkpoint, {"aligner": FULL})
    exact, extractor = (
        open_(model, plan, tmp_path / "exact"),
        open_(model, plan, tmp_path / "half", "bfloat16"),
    )
    first = [
        batch.features
        for batch in batches_of(data_of(hybrid_checkpoint, rows, extractor), extractor)
    ]
    again = [
        batch.features
        for batch in batches_of(data_of(hybrid_checkpoint, rows, extractor), extractor)
    ]
    plain = [batch.features for batch in batches_of(data_of(hybrid_checkpoint, rows, exact), exact)]
    for made, stored, wanted in zip(first, again, plain, strict=True):
        for name in wanted:
            assert made[name].dtype == torch.float32 and torch.equal(made[name], stored[name])
            assert ((made[name] - wanted[name]).abs() <= wanted[name].abs() * 2**-8).all()
    assert extractor.cache.entry_bytes * 2 == exact.cache.entry_bytes


def test_what_changes_is_a_miss(hybrid_checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    model, plan = model_of(hybrid_checkpoint, {})
    extractor = open_(model, plan, tmp_path)
    data = data_of(hybrid_checkpoint, rows, extractor)
    list(batches_of(data, extractor))
    assert data.has_all_features()

    folders = {extractor.cache.folder}
    tower = model.model.high_res_vision_model.vision_encoder.layers[1].mlp.lin1.weight
    with torch.no_grad():
        tower[3, 4] = torch.nextafter(tower[3, 4], torch.tensor(9.0))  # one bit
    folders.add(open_(model, plan, tmp_path).cache.folder)
    model.config.vision_config.layer_norm_eps *= 2
    folders.add(open_(model, plan, tmp_path).cache.folder)
    folders.add(open_(model, plan, tmp_path, "bfloat16").cache.folder)
    mixed = open_feature_extractor(model, plan, str(tmp_path), "float32", 1.0, "bf16-mixed")
    folders.add(mixed.cache.folder)
    folders.add(open_(model, plan | {"aligner": FULL}, tmp_path).cache.folder)
    assert len(folders) == 6
    # What comes after the vision side makes no difference.
    assert open_(model, plan | {"lm_head": FULL}, tmp_path).cache.folder in folders

    assert data.processor is not None
    settings = replace(data.processor.image_settings, background=(1, 2, 3))
    data.processor = replace(data.processor, image_settings=settings)
    assert not data.has_all_features()


def test_images_are_known_by_their_bytes(
    hybrid_checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    model, plan = model_of(hybrid_checkpoint, {})
    extractor = open_(model, plan, tmp_path / "store")
    list(batches_of(data_of(hybrid_checkpoint, rows, extractor), extractor))
    for picture in rows.parent.glob("*.png"):
        (tmp_path / picture.name).write_bytes(picture.read_bytes())
    copy = tmp_path / "rows.jsonl"
    copy.write_text(rows.read_text())
    assert data_of(hybrid_checkpoint, copy, extractor).has_all_features()
    Image.open(tmp_path / "1.png").rotate(180).save(tmp_path / "1.png")
    data = data_of(hybrid_checkpoint, copy, extractor)
    assert not data.has_all_features()
    list(batches_of(data, extractor))
    assert len(entries(extractor)) == 5 and data.has_all_features()


@pytest.mark.parametrize("part", ["siglip", "sam"])
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_tower_that_trains_is_refused(part: str, mode: Any) -> None:
    with pytest.raises(UserError, match=rf"{part} trains \({mode}\)"):
        cacheable_features(make_plan(DEEPSEEK_VL, "lora", {part: PartPlan(mode)}))


def test_towers_that_drop_out_are_refused(hybrid_checkpoint: Path, tmp_path: Path) -> None:
    model, plan = model_of(hybrid_checkpoint, {})
    model.config.vision_config.attention_dropout = 0.1
    with pytest.raises(UserError, match="attention_dropout"):
        open_(model, plan, tmp_path)
