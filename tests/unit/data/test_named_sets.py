"""Named held-out sets: which files, which metrics, which of their questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.rows import LoadedItems
from dsvl_tune.datamodules import ChartsDataModule, InstructDataModule, MixtureDataModule
from dsvl_tune.datamodules.held_out_sets import HeldOutFile, ProcessPart, UntilStopped
from dsvl_tune.evaluation.generation.generate import greedy_ids
from dsvl_tune.evaluation.metrics.relaxed_accuracy import RelaxedAccuracy
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write_rows(name: str, answers: Sequence[str]) -> str:
        path = tmp_path / name
        rows = [{"question": f"Question {i}?", "answer": one} for i, one in enumerate(answers)]
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return str(path)

    return write_rows


def names_of(data: Any, name: str) -> list[str]:
    return [metric.name for metric in data.held_out_sets[name].metrics]


def test_each_set_has_its_metrics(write: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("Once upon a time.")
    data = ChartsDataModule(
        heldout={
            "invoices": write("invoices.jsonl", ['{"total": 1}', '{"total": 2}']),
            "numbers": HeldOutFile(write("n.jsonl", ["1", "2"]), metrics=["exact_match"]),
            "prose": str(tmp_path / "prose.txt"),
        }
    )
    data.setup("fit")
    assert list(data.validation_sets) == ["validation", "invoices", "numbers", "prose", "scenes"]
    assert names_of(data, "invoices") == ["json_fields"]
    assert names_of(data, "numbers") == ["exact_match"]
    assert names_of(data, "prose") == ["perplexity", "token_accuracy"]
    assert names_of(data, "scenes") == ["relaxed_accuracy"]


@pytest.mark.parametrize(
    ("name", "file", "fragment"),
    [
        ("test", {}, "cannot be called 'test'"),
        ("anls", {}, "cannot be called 'anls'"),
        ("a/b", {}, "cannot be called 'a/b'"),
        ("scenes", {}, "a set 'scenes' already"),
        ("general", {"path": "missing.jsonl"}, "missing.jsonl"),
        ("general", {"path": "missing.txt"}, "no such file"),
        ("general", {"metrics": ["nls"]}, "data.heldout.general.metrics: .*'nls'"),
        ("general", {"metrics": ["numeric_error"]}, "numeric_error: reference 'red'"),
        ("general", {"metrics": ["perplexity"]}, "perplexity: is measured on texts"),
    ],
)
def test_what_is_wrong_is_said_before_training(
    write: Callable[..., str], name: str, file: dict[str, Any], fragment: str
) -> None:
    settings = {"path": write("rows.jsonl", ["red", "blue"]), **file}
    with pytest.raises(UserError, match=fragment):
        ChartsDataModule(heldout={name: HeldOutFile(**settings)}).setup("fit")


def test_a_held_out_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    row = {"question": "What?", "answer": "x", "image": "a.png"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    data = ChartsDataModule(heldout={"general": str(tmp_path / "rows.jsonl")})
    with pytest.raises(UserError, match="rows.jsonl:1: .*a.png"):
        data.setup("fit")


def test_a_validation_asks_the_same_questions_every_time(write: Callable[..., str]) -> None:
    file = write("rows.jsonl", [str(i) for i in range(50)])

    def asked(**options: Any) -> list[int]:
        data = ChartsDataModule(heldout={"general": file}, validation_charts=1, **options)
        data.setup("fit")
        loader: Any = data.val_dataloader()[2]
        return [number for prompts in loader for number in prompts.numbers]

    assert asked() == list(range(50))
    some = asked(eval_rows=9)
    assert some == asked(eval_rows=9) == sorted(set(some))
    assert len(some) == 9
    assert some != asked(eval_rows=9, seed=2)
    # Under a limit of time, the first of them are a random sample, too.
    timed = asked(eval_rows=9, eval_seconds=60.0)
    assert sorted(timed) == some
    assert timed != some


def test_a_loader_can_be_stopped_and_begins_again() -> None:
    part = ProcessPart(LoadedItems(list("abcde")), range(5), 0, 1)
    sampler = UntilStopped(part)
    taken = []
    for position in sampler:
        taken.append(position)
        sampler.stopped = position == 1
    assert taken == [0, 1]
    assert list(sampler) == [0, 1, 2, 3, 4]


def test_questions_of_similar_length_are_asked_together(tmp_path: Path) -> None:
    """Those about one image stay together; the numbers are those of the file."""
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    texts = [("Why " * 90, None), ("Long " * 50, "a"), ("Who?", None), ("B?", "b"), ("A?", "a")]
    rows = [
        {"question": text, "answer": "x", **({"image": f"{image}.png"} if image else {})}
        for text, image in texts
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = InstructDataModule(
        str(tmp_path / "rows.jsonl"),
        validation=str(tmp_path / "rows.jsonl"),
        message_trees=False,
        eval_batch_size=2,
        metrics=["exact_match"],
    )
    data.setup("fit")
    loader: Any = data.val_dataloader()[1]
    assert [prompts.numbers for prompts in loader] == [[2, 0], [3, 1], [4]]


def test_the_order_of_questions_changes_no_answer(
    write: Callable[..., str], hybrid_checkpoint: Path
) -> None:
    """Token by token: in batches of similar length, and one at a time in the order of the file."""
    file = write("rows.jsonl", [str(i) for i in range(9)])
    rows = [{"question": "Say " * (1 + 7 * i % 11), "answer": "x"} for i in range(9)]
    Path(file).write_text("\n".join(map(json.dumps, rows)))
    base = open_checkpoint(hybrid_checkpoint)
    model = create_model(base).eval()
    ids = {}
    for by_length, batch_size in ((True, 4), (False, 1)):
        data = InstructDataModule(
            file,
            test=file,
            checkpoint=str(hybrid_checkpoint),
            eval_batch_size=batch_size,
            metrics=["exact_match"],
        )
        data.setup("test")
        loader: Any = data.question_loader(data.rows("test").flattened(), by_length=by_length)
        found = {}
        for prompts in loader:
            answers = greedy_ids(model, prompts, 6)
            found |= dict(zip(prompts.numbers, answers.tolist(), strict=True))
        ids[by_length] = found
    assert list(ids[True]) != sorted(ids[True])
    assert ids[True] == ids[False]


def test_each_source_is_scored_by_its_own_metrics(write: Callable[..., str]) -> None:
    forms = InstructDataModule(write("f.jsonl", ['{"a": 1}'] * 20), validation_rows=2)
    numbers = InstructDataModule(write("n.jsonl", ["1", "2"] * 10), validation_rows=2)
    data = MixtureDataModule(
        {
            "forms": forms,
            "numbers": numbers,
            "charts": ChartsDataModule(train_charts=2, validation_charts=1, test_charts=1),
        }
    )
    data.setup("fit")
    assert [metric.name for metric in data.metrics] == [
        "json_fields",
        "numeric_error",
        "relaxed_accuracy",
    ]
    scored = {
        (conversation.question_type, *conversation.scoring["metric"])
        for row in data.rows("validation")
        for conversation in row
    }
    assert {("forms", "json_fields"), ("numbers", "numeric_error")} < scored
    assert {names[1:] for names in scored} == {
        ("json_fields",),
        ("numeric_error",),
        ("relaxed_accuracy",),
    }
    assert names_of(data, "charts_scenes") == ["relaxed_accuracy"]


def test_metrics_of_a_mixture_are_those_of_all_its_sources(write: Callable[..., str]) -> None:
    numbers = InstructDataModule(write("n.jsonl", ["1", "2"] * 10), validation_rows=2)
    charts = ChartsDataModule(train_charts=2, validation_charts=1, test_charts=1)
    data = MixtureDataModule({"numbers": numbers, "charts": charts}, metrics=["anls"])
    data.setup("fit")
    assert [metric.name for metric in data.metrics] == ["anls"]
    assert not any("metric" in one.scoring for row in data.rows("validation") for one in row)
    assert names_of(data, "charts_scenes") == ["anls"]


def test_two_meanings_of_a_metric_are_refused() -> None:
    charts = [ChartsDataModule(metrics=[RelaxedAccuracy(tolerance)]) for tolerance in (0.05, 0)]
    data = MixtureDataModule(dict(zip("ab", charts, strict=True)))
    with pytest.raises(UserError, match="'b' has another metric 'relaxed_accuracy'"):
        _ = data.metrics
