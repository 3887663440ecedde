"""The mixture as a data module: in recipes, and under a trainer that stops and resumes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from quiet_trainer import quiet_trainer
from torch import Tensor

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Batch, Conversation
from dsvl_tune.data.encoding.tokenize import tokenize
from dsvl_tune.data.sampling.mixture_schedule import Ramp
from dsvl_tune.data.validation import row_stats
from dsvl_tune.datamodules import ChartsDataModule, InstructDataModule, MixtureDataModule
from dsvl_tune.recipe.recipe import Recipe


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Nine rows of text and thirty about six images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(6):
        Image.new("RGB", (20 + i, 30), (40 * i, 9, 9)).save(tmp_path / f"{i}.png")
    rows: dict[str, list[Any]] = {
        "text": [{"question": "Hi " * (i + 1), "answer": str(i)} for i in range(9)],
        "pictures": [
            {"question": f"How {i}?", "answer": "x " * i, "image": f"{i % 6}.png"}
            for i in range(1, 31)
        ],
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
    return {name: str(tmp_path / f"{name}.jsonl") for name in rows}


def mixture(files: dict[str, str], checkpoint: str, **options: Any) -> MixtureDataModule:
    sources: dict[str, Any] = {
        name: InstructDataModule(file, validation_rows=0, message_trees=False)
        for name, file in files.items()
    }
    settings = {
        "ratios": {"text": 1, "pictures": 1},
        "text_only": ("text",),
        "batch_size": 2,
        **options,
    }
    return MixtureDataModule(sources, checkpoint=checkpoint, **settings)


class Recorder(L.LightningModule):
    """Notes the rows of every trained micro-batch in a file a process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.folder = folder

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with (self.folder / f"rank{self.global_rank}").open("a") as file:
            file.write(json.dumps([source.rpartition("/")[2] for source in batch.sources]) + "\n")
        return self.weight * len(batch.sources)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def seen(
    data: MixtureDataModule, folder: Path, batches: int, resume: Path | None = None, **options: Any
) -> list[Any]:
    """Rows of every micro-batch, over all processes."""
    folder.mkdir(parents=True)
    accumulate = options.setdefault("accumulate_grad_batches", 2)
    trainer = quiet_trainer(
        max_epochs=-1,
        max_steps=batches // accumulate,
        callbacks=[
            ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        ],
        enable_checkpointing=True,
        **options,
    )
    trainer.fit(Recorder(folder), data, ckpt_path=resume, weights_only=True)
    ranks = [
        (folder / f"rank{rank}").read_text().splitlines() for rank in range(trainer.world_size)
    ]
    return [
        sorted(row for part in batch for row in json.loads(part))
        for batch in zip(*ranks, strict=True)
    ]


OPTIONS: dict[str, dict[str, Any]] = {
    "ratios": {},
    "warm-up": {
        "text_ratio": Ramp(1.0, 0.3, steps=6),
        "homogeneous_steps": True,
        "with_replacement": ("pictures",),
    },
    "by length": {"length_grouped": True},
}


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*fork")
@pytest.mark.parametrize("name", OPTIONS)
def test_resumed_anywhere_it_sees_the_rows_it_had_left(
    name: str, files: dict[str, str], tiny_checkpoint: str, tmp_path: Path
) -> None:
    """An epoch is 20 micro-batches, 10 steps."""
    whole = seen(mixture(files, tiny_checkpoint, **OPTIONS[name]), tmp_path / "whole", 44)
    assert len(whole) == 44
    for stop, workers in ((1, 0), (9, 0), (10, 2), (11, 0), (20, 2)):
        data = mixture(files, tiny_checkpoint, num_workers=workers, **OPTIONS[name])
        rest = seen(data, tmp_path / f"rest{stop}", 44, tmp_path / f"whole/step={stop}.ckpt")
        assert rest == whole[2 * stop :], stop
    if name == "warm-up":
        steps = [{row.split(".")[0] for row in whole[2 * i] + whole[2 * i + 1]} for i in range(22)]
        assert all(len(step) == 1 for step in steps) and steps[0] == {"text"}
        assert 12 <= sum(step == {"pictures"} for step in steps) <= 15
    text = Path(files["text"])
    text.write_text(text.read_text().replace('"8"', '"9"'))
    with pytest.raises(UserError, match="content of the rows"):
        seen(
            mixture(files, tiny_checkpoint, **OPTIONS[name]),
            tmp_path / "other",
            44,
            tmp_path / "whole/step=9.ckpt",
        )


@pytest.mark.filterwarnings("ignore")
def test_two_processes_see_together_what_one_sees(
    files: dict[str, str], tiny_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes also resume where one was stopped, at half the batch size."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = OPTIONS["warm-up"]
    one = seen(mixture(files, tiny_checkpoint, batch_size=4, **options), tmp_path / "one", 16)
    spread: dict[str, Any] = {
        "devices": 2,
        "strategy": "ddp_fork",
        "use_distributed_sampler": False,
    }
    for name, workers, resume in (
        ("two", 0, None),
        ("three", 2, "one/step=3.ckpt"),
        ("four", 0, "two/step=5.ckpt"),
    ):
        two = mixture(files, tiny_checkpoint, num_workers=workers, **options)
        after = int(resume.partition("=")[2][0]) if resume else 0
        saved = tmp_path / resume if resume else None
        assert seen(two, tmp_path / name, 16, saved, **spread) == one[2 * after :], name
    for key in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(key, None)


@pytest.fixture
def tokenizations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sources of the conversations that validation tokenizes, in order."""
    found: list[str] = []

    def counting(conversation: Conversation, *arguments: Any, **options: Any) -> Any:
        found.append(conversation.source)
        return tokenize(conversation, *arguments, **options)

    monkeypatch.setattr(row_stats, "tokenize", counting)
    return found


@pytest.mark.filterwarnings("ignore:.*fork")
def test_every_row_is_tokenized_once_for_checks_and_lengths(
    files: dict[str, str], tiny_checkpoint: str, tokenizations: list[str]
) -> None:
    data = mixture(files, tiny_checkpoint, length_grouped=True)
    data.setup("fit")
    loader = data.train_dataloader()
    assert len(tokenizations) == len(set(tokenizations)) == 39
    lengths = sorted(data.row_lengths().tolist())
    sizes = [len(batch.input_ids[0]) for batch in mixture_batches(files, tiny_checkpoint)]
    assert lengths == sorted(sizes) and len(loader) == 20
    tokenizations.clear()
    generated = mixture_of_charts(tiny_checkpoint)
    generated.setup("fit")
    trees = generated.row_lengths().tolist()
    assert len(tokenizations) == sum(len(row) for row in generated.rows("train"))
    assert generated.processor is not None
    alone = [
        [len(tokenize(conversation, generated.processor).input_ids) for conversation in row]
        for row in generated.rows("train")
    ]
    image_tokens = 4  # counted once per tree
    assert trees == [sum(row) - (len(row) - 1) * image_tokens for row in alone]


def mixture_of_charts(checkpoint: str) -> MixtureDataModule:
    """Message trees whose rows are made by a generator."""
    charts: Any = ChartsDataModule(train_charts=4, validation_charts=0, test_charts=0, questions=3)
    return MixtureDataModule({"charts": charts}, checkpoint=checkpoint, batch_size=1)


def test_a_process_that_checked_nothing_measures_the_rows(
    files: dict[str, str], tiny_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = mixture(files, tiny_checkpoint)
    first.setup("fit")
    monkeypatch.setenv("LOCAL_RANK", "1")
    second = mixture(files, tiny_checkpoint)
    second.trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False
    )
    second.setup("fit")
    assert [source.rows("train").lengths for source in second.sources.values()] == [None, None]
    assert second.row_lengths().tolist() == first.row_lengths().tolist()


def mixture_batches(files: dict[str, str], checkpoint: str) -> list[Batch]:
    """One epoch of single rows in the sizes' ratios: every row once."""
    data = mixture(files, checkpoint, ratios=None, batch_size=1)
    data.setup("fit")
    return list(data.train_dataloader())


def test_weights_of_sources_and_modalities_reach_the_loss(
    files: dict[str, str], tiny_checkpoint: str
) -> None:
    data = mixture(
        files,
        tiny_checkpoint,
        loss_weights={"text": 0.5},
        modality_weights={"text": 0.5, "image": 3.0},
        batch_size=6,
    )
    data.setup("fit")
    for batch in data.train_dataloader():
        for row, source in enumerate(batch.sources):
            weights = set(batch.loss_weights[row].tolist()) - {0.0}
            assert weights == ({0.25} if "text" in source else {3.0})
    kinds = {conversation.question_type for row in data.rows("train") for conversation in row}
    assert kinds == {"text", "pictures"}


def test_the_majority_baseline_knows_every_source(tmp_path: Path, tiny_checkpoint: str) -> None:
    """The trap: the first 2,000 rows of the mixture, which are counted, are of one source."""
    for name, answer, count in (("many", "yes", 2100), ("few", "no", 20)):
        rows = [{"question": name, "answer": answer, "question_type": name}] * count
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources: dict[str, Any] = {
        "many": InstructDataModule(str(tmp_path / "many.jsonl"), validation_rows=0),
        "few": InstructDataModule(
            str(tmp_path / "few.jsonl"), test=str(tmp_path / "few.jsonl"), validation_rows=0
        ),
    }
    data = MixtureDataModule(sources, checkpoint=tiny_checkpoint, metrics=["exact_match"])
    data.setup("fit")
    assert data.majority_baseline()["exact_match"] == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"text_only": ("tekst",)},
            "text_only: no source is called 'tekst'. Sources: text, pictures",
        ),
        ({"ratios": {"text": 1}}, "ratios: none for 'pictures'"),
        ({"loss_weights": {"text": 0.0}}, "loss weight of text is 0.0"),
        (
            {"text_only": ("pictures",)},
            "has an image, but data.text_only names its source 'pictures'",
        ),
        ({"text_only": (), "text_ratio": Ramp(1.0, 0.7, 3)}, "all of one kind"),
        ({"text_ratio": Ramp(1.0, 7.0, 3)}, "text_ratio: from 1.0 to 7.0"),
    ],
)
def test_what_cannot_be_mixed(
    options: dict[str, Any], words: str, files: dict[str, str], tiny_checkpoint: str
) -> None:
    def train() -> None:
        data = mixture(files, tiny_checkpoint, **options)
        data.setup("fit")
        list(data.train_dataloader())

    with pytest.raises(UserError, match=words):
        train()


RECIPE = """
data:
  class_path: dsvl_tune.datamodules.MixtureDataModule
  init_args:
    sources:
      text:
        class_path: dsvl_tune.datamodules.InstructDataModule
        init_args: {{train: {text}, validation_rows: 0}}
      pictures:
        class_path: dsvl_tune.datamodules.InstructDataModule
        init_args: {{train: {pictures}}}
    ratios: {{text: 1, pictures: 2}}
    text_only: [text]
    text_ratio: {{start: 1.0, end: 0.7, steps: 100, shape: cosine}}
model: {{checkpoint: {checkpoint}}}
"""


def test_a_recipe_names_sources_and_ramp(
    files: dict[str, str], hybrid_checkpoint: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "mix.yaml"
    recipe.write_text(RECIPE.format(checkpoint=hybrid_checkpoint, **files))
    data = Recipe.load(recipe).data
    assert isinstance(data, MixtureDataModule)
    assert data.text_ratio == Ramp(1.0, 0.7, 100, shape="cosine")
    data.setup("fit")
    assert len(data.rows("train")) == 9 + 5  # six trees of five questions, one of them held out
    assert {
        conversation.question_type for row in data.rows("validation") for conversation in row
    } == {"pictures"}
