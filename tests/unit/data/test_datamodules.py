"""The data modules: splits, loaders, and resuming in the middle of an epoch."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import pyarrow as pa
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from quiet_trainer import quiet_trainer
from torch import Tensor

import dsvl_tune.datamodules
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Batch, Prompts
from dsvl_tune.data.readers.open import open_rows
from dsvl_tune.data.rows import LoadedRows
from dsvl_tune.data.validation.inspect import inspect_rows
from dsvl_tune.datamodules import InstructDataModule


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten images with two questions each, and five rows of text."""
    rows: list[dict[str, Any]] = []
    for i in range(20):
        name = f"{i // 2}.png"
        Image.new("RGB", (20 + i, 30), (i, 2 * i, 3 * i)).save(tmp_path / name)
        turns = [
            {"from": "human", "value": f"<image>\nHow many {i}?"},
            {"from": "gpt", "value": str(i)},
        ]
        rows.append({"image": name, "conversations": turns, "kind": "count"})
    for i in range(5):
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": f"Hi {i}"},
                    {"role": "assistant", "content": "Ho"},
                ]
            }
        )
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def module(data: Path, checkpoint: str, **options: Any) -> InstructDataModule:
    return InstructDataModule(
        str(data), checkpoint=checkpoint, **{"batch_size": 2, "validation_rows": 0, **options}
    )


class Recorder(L.LightningModule):
    """Notes the rows of every trained micro-batch."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[str]] = []
        self.dies_at = dies_at

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if len(self.seen) == self.dies_at:
            raise RuntimeError("the machine went down")
        self.seen.append(batch.sources)
        return self.weight * len(batch.sources)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    data: Path,
    checkpoint: str,
    steps: int,
    folder: Path,
    resume: Path | None = None,
    dies_at: int | None = None,
    **options: Any,
) -> Recorder:
    recorder = Recorder(dies_at)
    trainer = quiet_trainer(
        max_epochs=-1,
        max_steps=steps,
        callbacks=[
            ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        ],
        enable_checkpointing=True,
    )
    with suppress(RuntimeError):
        trainer.fit(
            recorder, module(data, checkpoint, **options), ckpt_path=resume, weights_only=True
        )
    trainer.save_checkpoint(folder / "end.ckpt")
    return recorder


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*fork")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_resumes_with_the_rows_it_had_left(
    workers: int, data: Path, tiny_checkpoint: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """15 rows of 2 make an epoch of 8 micro-batches; stopped inside and at the ends of epochs."""
    whole = fit(data, tiny_checkpoint, 20, tmp_path / "whole", num_workers=workers)
    assert len(whole.seen) == 20
    for epoch in (whole.seen[:8], whole.seen[8:16]):
        assert len({source for batch in epoch for source in batch}) == sum(map(len, epoch)) == 25
    assert whole.seen[:8] != whole.seen[8:16]
    for stop in (1, 7, 8, 9, 16, 19) if workers == 0 else (3, 8):
        saved = tmp_path / f"whole/step={stop}.ckpt"
        rest = fit(data, tiny_checkpoint, 20, tmp_path / f"rest{stop}", saved, num_workers=workers)
        assert rest.seen == whole.seen[stop:], stop
    assert not [w for w in recwarn if "not resumable" in str(w.message)]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("stop", [3, 8, 11])
@pytest.mark.parametrize("ends", ["by its last step", "in the middle of a step"])
def test_a_run_that_ended_resumes(
    ends: str, stop: int, data: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    """Saved after the end: Lightning counts the broken epoch as whole, the broken step as begun."""
    whole = fit(data, tiny_checkpoint, 20, tmp_path / "whole")
    steps, dies_at = (stop, None) if ends == "by its last step" else (20, stop)
    assert len(fit(data, tiny_checkpoint, steps, tmp_path / "part", dies_at=dies_at).seen) == stop
    rest = fit(data, tiny_checkpoint, 20, tmp_path / "rest", tmp_path / "part/end.ckpt")
    assert rest.seen == whole.seen[stop:]


def test_resuming_on_other_data_is_refused(
    data: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    fit(data, tiny_checkpoint, 2, tmp_path)
    for key, value in {"batch_size": 3, "seed": 5, "message_trees": False}.items():
        with pytest.raises(UserError, match="resuming.*now it is"):
            fit(data, tiny_checkpoint, 4, tmp_path, tmp_path / "step=2.ckpt", **{key: value})
    data.touch()
    fit(data, tiny_checkpoint, 4, tmp_path, tmp_path / "step=2.ckpt")
    data.write_text(data.read_text().replace("Ho", "Ha"))
    with pytest.raises(UserError, match="resuming.*content of the rows.*now it is"):
        fit(data, tiny_checkpoint, 4, tmp_path, tmp_path / "step=2.ckpt")


def test_a_checksum_changes_with_the_rows(tmp_path: Path) -> None:
    """Arrow and tar are not read whole: their checksum changes with the lengths alone."""
    rows = [
        {"question": "Is it so?", "answer": "y" * 3},
        {"question": "Is it so?", "answer": "y" * 4},
    ]
    for kind in ("jsonl", "json", "csv", "arrow", "tar"):
        files = [write_row(tmp_path / f"{i}.{kind}", row) for i, row in enumerate([*rows, rows[0]])]
        sums = [open_rows(str(file)).checksum for file in files]
        assert sums[0] == sums[2] != sums[1], kind


def write_row(path: Path, row: dict[str, str]) -> Path:
    if path.suffix == ".arrow":
        table = pa.Table.from_pylist([row])
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    elif path.suffix == ".csv":
        path.write_text("\n".join([",".join(row), ",".join(row.values())]))
    elif path.suffix == ".tar":
        member = tarfile.TarInfo("1.json")
        member.size = len(content := json.dumps(row).encode())
        with tarfile.open(path, "w") as tar:
            tar.addfile(member, io.BytesIO(content))
    else:
        path.write_text(json.dumps([row] if path.suffix == ".json" else row))
    return path


def test_loaders(data: Path, tiny_checkpoint: str) -> None:
    plain = module(data, tiny_checkpoint, test=str(data), eval_batch_size=4, validation_rows=5)
    plain.setup("fit")
    loss_loader, prompt_loader = plain.val_dataloader()
    batches, prompts = list(loss_loader), list(prompt_loader)
    assert all(isinstance(batch, Batch) for batch in batches) and all(
        isinstance(p, Prompts) for p in prompts
    )
    held = [source for batch in batches for source in batch.sources]
    asked = [source for prompt in prompts for source in prompt.sources]
    assert sorted(held) == sorted(asked) and len(held) == 5
    assert sum(len(p.sources) for p in plain.test_dataloader()) == 25
    trained = [source for batch in plain.train_dataloader() for source in batch.sources]
    assert len(trained) == 20 and not set(trained) & set(held)


def test_held_out_images_are_not_trained_on(data: Path, tiny_checkpoint: str) -> None:
    for seed in range(5):
        plain = module(data, tiny_checkpoint, validation_rows=4, seed=seed, verify_images=False)
        plain.setup("fit")
        train, held = (
            {ref.name for row in plain.rows(s) for c in row for ref in c.images}
            for s in ("train", "validation")
        )
        assert not train & held
        assert sum(map(len, plain.rows("validation"))) <= 4


def test_trees_hold_the_questions_about_an_image(data: Path, tiny_checkpoint: str) -> None:
    trees, rows = module(data, tiny_checkpoint), module(data, tiny_checkpoint, message_trees=False)
    for one in (trees, rows):
        one.setup("fit")
    assert [len(row) for row in trees.rows("train")] == [2] * 10 + [1] * 5
    assert [len(row) for row in rows.rows("train")] == [1] * 25


def test_system_prompt_of_the_recipe(data: Path, tiny_checkpoint: str) -> None:
    plain = module(data, tiny_checkpoint, system_prompt="Count.")
    plain.setup("fit")
    assert plain.processor is not None
    batch = next(iter(plain.train_dataloader()))
    assert plain.processor.tokenizer.decode(batch.input_ids[0]).startswith(
        "<｜begin▁of▁sentence｜>Count.\n\nUser: "
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            '{"messages": [{"role": "user", "content": "a"},'
            ' {"role": "assistant", "content": " "}]}',
            "turn 2.*empty",
        ),
        ('{"messages": [{"role": "user", "content": "a"}]}', "no answer"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image", "image": "none.png"}]},'
            ' {"role": "assistant", "content": "b"}]}',
            "none.png: no such file",
        ),
        (
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": "a " * 300},
                        {"role": "assistant", "content": "b"},
                    ]
                }
            ),
            "limit is 256",
        ),
    ],
)
def test_bad_rows_end_the_setup(line: str, words: str, data: Path, tiny_checkpoint: str) -> None:
    data.write_text(data.read_text() + "\n" + line)
    with pytest.raises(UserError, match=words) as error:
        module(data, tiny_checkpoint).setup("fit")
    assert "rows.jsonl:26" in str(error.value)


def test_a_bad_image_met_in_a_worker_is_one_message(data: Path, tiny_checkpoint: str) -> None:
    (data.parent / "3.png").write_bytes(b"no picture")
    plain = module(data, tiny_checkpoint, verify_images=False, num_workers=1)
    plain.setup("fit")
    with pytest.raises(UserError) as error:
        list(plain.train_dataloader())
    assert str(error.value).startswith(str(data)) and "Traceback" not in str(error.value)


def test_a_file_beyond_check_rows_is_opened_and_not_read(
    data: Path, tiny_checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = data.read_text().splitlines()
    data.write_text("\n".join([*lines, "{no json"]))
    large = module(data, tiny_checkpoint, check_rows=25, batch_size=3)
    large.setup("fit")
    assert "26 rows are opened, not checked" in capsys.readouterr().out
    assert len(large.rows("train")) == 26 and len(large.rows("train")[0]) == 1  # no message trees
    with pytest.raises(UserError, match=r"rows.jsonl:26: not JSON"):
        list(large.train_dataloader())
    with pytest.raises(UserError, match=r"26 rows, more than check_rows .25.*Give data.validation"):
        module(data, tiny_checkpoint, check_rows=25, validation_rows=5).setup("fit")
    with pytest.raises(UserError, match=r"rows.jsonl:26: not JSON"):
        module(data, tiny_checkpoint, check_rows=26).setup("fit")


@pytest.mark.filterwarnings("ignore:.*fork")
def test_many_processes_check_rows_with_the_same_result(data: Path, tiny_checkpoint: str) -> None:
    data.write_text(data.read_text() + "\n{no json")
    plain = module(data, tiny_checkpoint)
    inspector = plain.inspector("training", decode=True)
    rows = plain.unchecked()["train"]
    alone, forked = (
        list(inspect_rows(rows, inspector, fork_from=fork_from)) for fork_from in (1000, 1)
    )
    assert forked == alone and len(alone) == 26
    assert "rows.jsonl:26: not JSON" in forked[-1][0].error


def test_invalid_settings(data: Path, tiny_checkpoint: str) -> None:
    with pytest.raises(UserError, match="max_tokens: 300.*at most 256"):
        module(data, tiny_checkpoint, max_tokens=300).setup("fit")
    plain = module(data, tiny_checkpoint)
    plain.setup("test")
    assert plain.val_dataloader() == []


def test_without_a_test_file_the_validation_rows_are_scored(
    data: Path, tiny_checkpoint: str
) -> None:
    held_out = module(data, tiny_checkpoint, validation_rows=2)
    held_out.setup("fit")
    assert held_out.rows("test") == held_out.rows("validation") != LoadedRows()


def test_datamodules_is_a_part_of_the_package() -> None:
    path = dsvl_tune.datamodules.__file__
    assert path is not None
    spec = importlib.util.spec_from_file_location("datamodules", path)
    assert spec is not None and spec.loader is not None
    with pytest.raises(ImportError, match="dsvl_tune.datamodules"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_questions_without_an_answer_have_no_majority_baseline(
    data: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    asked = [{"role": "user", "content": "Hi 1"}, {"role": "assistant", "content": "Ho"}]
    baselines = []
    for name, rows in {"mixed": [asked, asked[:1]], "unanswered": [asked[:1]]}.items():
        test = tmp_path / f"{name}.jsonl"
        test.write_text("\n".join(json.dumps({"messages": row}) for row in rows))
        questions = module(data, tiny_checkpoint, test=str(test))
        questions.setup("fit")
        baselines.append(questions.majority_baseline())
    assert baselines == [{"anls": 1.0, "exact_match": 1.0}, {}]
