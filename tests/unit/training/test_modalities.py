"""Text and images in one run: the loss of each is exact, and text alone blocks no process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image
from quiet_trainer import quiet_trainer
from reference import assert_trained_alike

from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.types import Batch
from dsvl_tune.data.encoding.batches import make_batch
from dsvl_tune.datamodules import InstructDataModule, MixtureDataModule
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.training.module import FinetuneModule
from dsvl_tune.training.objectives.supervised import supervised_loss

BOTH_SIDES = {"language_model": PartPlan("full"), "aligner": PartPlan("full")}
VISION_SIDE = {
    "full": {"aligner": PartPlan("full"), "sam_neck_hd": PartPlan("full")},
    "lora": {"aligner": PartPlan("lora")},
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    noise = torch.randint(
        0, 255, (30, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    Image.fromarray(noise.numpy()).save(tmp_path / "a.png")
    rows: dict[str, list[Any]] = {
        "text": [{"question": "Hi " * i, "answer": "yes " * i} for i in range(1, 6)],
        "image": [
            {"question": f"What {i}?", "answer": f"A {i}", "image": "a.png"} for i in range(8)
        ],
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
    return {name: str(tmp_path / f"{name}.jsonl") for name in rows}


def data(
    files: dict[str, str], checkpoint: Path, batch_size: int, **options: Any
) -> MixtureDataModule:
    sources: dict[str, Any] = {
        name: InstructDataModule(file, validation_rows=0, message_trees=False)
        for name, file in files.items()
    }
    return MixtureDataModule(
        sources,
        ratios={"text": 1, "image": 1},
        text_only=("text",),
        loss_weights={"text": 0.5},
        checkpoint=str(checkpoint),
        batch_size=batch_size,
        **options,
    )


class Recorded(FinetuneModule):
    """Keeps what each step logged; the first process saves it and the weights at the end."""

    path: Path
    logged: list[dict[str, float]]

    def log(self, name: str, value: Any, **options: Any) -> None:  # type: ignore[override]
        if name == "train/loss":
            self.logged.append({})
        if name.startswith("train/loss"):
            self.logged[-1][name] = float(value)

    def trained(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.named_parameters() if p.requires_grad}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.before = self.trained()

    # A step of text alone moves nothing of the vision side, not by momentum either.
    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if (
            not batch.images
            and self.trainer.world_size == self.trainer.accumulate_grad_batches == 1
        ):
            for name, weight in self.trained().items():
                is_vision = "language_model" not in name
                assert torch.equal(weight, self.before[name]) or not is_vision, name

    def on_train_end(self) -> None:
        if self.global_rank == 0:
            trained = self.trained()
            torch.save({"logged": self.logged, "weights": trained}, self.path)


def run(
    files: dict[str, str],
    checkpoint: Path,
    path: Path,
    batch_size: int,
    log_every: int = 1,
    parts: dict[str, PartPlan] = BOTH_SIDES,
    feature_cache: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Four optimizer steps with some parts trained, and what was recorded."""
    L.seed_everything(3, verbose=False)
    module = Recorded(
        str(checkpoint),
        "none",
        parts,
        lr=1e-3,
        warmup_steps=1,
        feature_cache=str(feature_cache) if feature_cache else None,
        feature_dtype="float32",
    )
    module.path = path
    module.logged = []
    homogeneous_steps = options.pop("homogeneous_steps", False)
    trainer = quiet_trainer(
        max_steps=4,
        max_epochs=-1,
        limit_val_batches=0,
        log_every_n_steps=log_every,
        **options,
    )
    trainer.fit(
        module, data(files, checkpoint, batch_size, homogeneous_steps=homogeneous_steps, seed=1)
    )
    kept: dict[str, Any] = torch.load(path, weights_only=True)
    return kept


@pytest.mark.parametrize("pack_tokens", [None, 4096])
def test_each_modality_and_source_has_the_mean_of_its_own_tokens(
    pack_tokens: int | None, files: dict[str, str], hybrid_checkpoint: Path
) -> None:
    """Two sources show images, one of them as message trees; a packed row has all three."""
    shown = {"question": "And here?", "image": "a.png"}
    tree = [{**shown, "answer": "left"}, {**shown, "answer": "in the middle"}]
    files["more"] = str(Path(files["image"]).with_name("more.jsonl"))
    Path(files["more"]).write_text("\n".join(map(json.dumps, tree)))
    model = create_model(open_checkpoint(hybrid_checkpoint))
    module = data(files, hybrid_checkpoint, batch_size=14, pack_tokens=pack_tokens)
    module.ratios = None
    module.sources["more"].message_trees = True  # type: ignore[attr-defined]
    module.setup("fit")
    (batch,) = (module.on_after_batch_transfer(batch, 0) for batch in module.train_dataloader())
    assert isinstance(batch, Batch) and module.processor is not None
    assert (len(batch.input_ids) == 1) == (pack_tokens is not None)
    rows = [conversation for i in range(14) for conversation in module.rows("train")[i]]
    assert len(rows) == len(batch.sources) == 15
    alone = {name: torch.zeros(2) for name in files}
    with torch.no_grad():
        logged = supervised_loss(model, batch).logged
        for row in rows:
            one = make_batch([[row]], module.processor, None, "error")
            sums = supervised_loss(model, module.on_after_batch_transfer(one, 0))
            alone[Path(row.source).name.partition(".")[0]] += torch.stack([sums.loss, sums.weight])
    expected = {f"loss/{name}": sums for name, sums in alone.items()}
    expected |= {"loss_text": alone["text"], "loss_image": alone["image"] + alone["more"]}
    for name, sums in expected.items():
        assert sums[1] > 0
        torch.testing.assert_close(logged[name], sums, atol=1e-4, rtol=1e-5)


def test_the_logged_loss_is_the_mean_since_the_last_logged_step(
    files: dict[str, str], hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    """With homogeneous steps a single step would show one modality alone."""
    steps = {}
    for log_every in (1, 4):
        path = tmp_path / str(log_every)
        recorded = run(
            files, hybrid_checkpoint, path, 4, log_every=log_every, homogeneous_steps=True
        )
        steps[log_every] = recorded["logged"]
    assert [len(step) for step in steps[4]] == [1, 1, 1, 5]
    for name in ("train/loss_text", "train/loss_image", "train/loss/text", "train/loss/image"):
        values = [step[name] for step in steps[1] if name in step]
        assert len(values) == 2 and min(values) <= steps[4][3][name] <= max(values)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("homogeneous_steps", [False, True])
def test_two_processes_train_and_report_as_one(
    homogeneous_steps: bool,
    files: dict[str, str],
    hybrid_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Micro-batches of one row: often a process has text alone while the other has an image.

    The strategy is stock DDP, as Lightning takes it for two devices.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    one = run(files, hybrid_checkpoint, tmp_path / "one", 4, homogeneous_steps=homogeneous_steps)
    two = run(
        files,
        hybrid_checkpoint,
        tmp_path / "two",
        1,
        homogeneous_steps=homogeneous_steps,
        devices=2,
        strategy="ddp_fork",
        use_distributed_sampler=False,
        accumulate_grad_batches=2,
    )
    for key in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(key, None)
    assert len(one["logged"]) == len(two["logged"]) == 4
    for ours, theirs in zip(one["logged"], two["logged"], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-5)
        for groups in ("train/loss_", "train/loss/"):
            assert (sum(name.startswith(groups) for name in ours) == 1) == homogeneous_steps
    assert_trained_alike(one["weights"], two["weights"], atol=5e-5)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("plan", VISION_SIDE)
def test_steps_of_text_change_nothing_where_the_vision_side_alone_trains(
    plan: str, cached: bool, files: dict[str, str], hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    """Their loss counts, and the steps of images are those of a run without a step of text."""
    parts = (
        VISION_SIDE["full"]
        if plan == "full" and not cached
        else {"aligner": VISION_SIDE[plan]["aligner"]}
    )
    recorded = run(
        files,
        hybrid_checkpoint,
        tmp_path / "steps",
        4,
        parts=parts,
        feature_cache=tmp_path / "cache" if cached else None,
        homogeneous_steps=True,
    )
    names = [set(step) - {"train/loss"} for step in recorded["logged"]]
    pictures, texts = ({f"train/loss_{kind}", f"train/loss/{kind}"} for kind in ("image", "text"))
    assert names.count(pictures) == names.count(texts) == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_fork_find_unused_parameters_false"])
def test_two_processes_of_which_one_has_text_where_the_vision_side_alone_trains(
    strategy: str,
    files: dict[str, str],
    hybrid_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    parts = VISION_SIDE["full"]
    one = run(files, hybrid_checkpoint, tmp_path / "one", 2, parts=parts)
    options: Any = {"devices": 2, "strategy": strategy, "use_distributed_sampler": False}
    two = run(files, hybrid_checkpoint, tmp_path / "two", 1, parts=parts, **options)
    for key in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(key, None)
    for ours, theirs in zip(one["logged"], two["logged"], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-5)
    assert_trained_alike(one["weights"], two["weights"], atol=5e-5)
