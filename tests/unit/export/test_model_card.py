"""The README of a merged checkpoint: figures, samples shown as they are, no private path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from dsvl_tune.core.checkpoint.hub import public_name
from dsvl_tune.export.audit import without_folders, write_audit
from dsvl_tune.export.model_card import write_card
from dsvl_tune.export.private_paths import private_paths
from dsvl_tune.export.run_card import (
    CardOptions,
    eval_results,
    results_text,
    run_sections,
    samples_text,
    summary_sentence,
)
from dsvl_tune.families import open_checkpoint

SUMMARY: dict[str, Any] = {
    "before": {"relaxed_accuracy": 0.25, "cer": 0.5},
    "after": {"relaxed_accuracy": 1.0, "cer": 0.125, "tables/relaxed_accuracy": 0.125},
    "intervals": {"relaxed_accuracy": [0.9, 1.0]},
    "questions": {"test": 4, "tables": 2},
}
REPORT: dict[str, Any] = {
    "layout": "transformers",
    "dtype": "float32",
    "rows": 0,
    "checkpoint": None,
    "changed_tensors": {"language_model": 14},
}


@pytest.mark.parametrize("key", ["majority_baseline", "floor"])
def test_missing_figures_are_dashes(key: str) -> None:
    """A summary of version 0.1 has the baseline under "floor"."""
    lines = results_text({**SUMMARY, key: {"relaxed_accuracy": 0.5}}).splitlines()
    assert lines[0] == (
        "On held-out rows (test: 4 questions, tables: 2 questions), before and after training."
    )
    assert lines[4:] == [
        "| relaxed_accuracy | 25.0 % | 100.0 % | [90.0, 100.0] | 50.0 % |",
        "| cer | 50.0 % | 12.5 % | - | - |",
        "| tables/relaxed_accuracy | - | 12.5 % | - | - |",
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run on a local base and rows of one's own."""
    folder = tmp_path / "runs" / "mine"
    (folder / "predictions").mkdir(parents=True)
    data = {"class_path": "Mine", "init_args": {"train": ["/home/me/secret/rows.jsonl"]}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    plan = {"language_model": {"mode": "lora", "rank": 4}, "siglip": {"mode": "frozen"}}
    (folder / "plan.json").write_text(json.dumps(plan))
    base = {"name": "/home/me/base", "commit": None, "sha256": {"model.safetensors": "ab"}}
    manifest = {"dsvl_tune": "0", "python": "3", "libraries": {"peft": "1"}, "checkpoint": base}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for when in ("before", "after"):
        lines = [
            {
                "question": f"q{number} | <b>*x*",
                "references": ["a", "b"],
                "answer": f"{when}\n# {number}",
                "source": f"/home/me/secret/rows.jsonl:{number}",
            }
            for number in range(8)
        ]
        text = "\n".join(map(json.dumps, lines))
        (folder / "predictions" / f"test_{when}.jsonl").write_text(text)
    return folder


def test_samples_are_evenly_spaced_and_escaped(run: Path) -> None:
    lines = samples_text(run / "predictions", 4).splitlines()[4:]
    row = r"| q2 \| &lt;b&gt;\*x\* | a or b | before # 2 | after # 2 |"
    assert len(lines) == 4 and lines[1] == row
    assert samples_text(run / "predictions", 0) == ""


def test_the_card_is_one_that_the_hub_reads(
    run: Path, hybrid_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = open_checkpoint(hybrid_checkpoint)
    base = open_checkpoint(Path(shutil.copytree(hybrid_checkpoint, tmp_path / "base")))
    assert str(tmp_path) in base.name
    written: list[str] = []
    monkeypatch.setattr(ModelCard, "save", lambda card, path: written.append(str(card)))
    write_card(
        target,
        base,
        run_sections(run, REPORT, CardOptions(curves=b"png")),
        summary=summary_sentence(run, base.name),
        results=eval_results(run, REPORT),
    )
    (text,) = written
    (tmp_path / "README.md").write_text(text)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.license == "other" and data.pipeline_tag == "image-text-to-text"
    assert {one.metric_type: one.metric_value for one in data.eval_results} == {
        "relaxed_accuracy": 1.0,
        "cer": 0.125,
    }
    assert (
        "# DeepSeek-VL from base\n" in text
        and "LoRA, rank 4" in text
        and "![training curves](curves.png)" in text
    )
    write_audit(tmp_path, run, REPORT, paths=False)
    assert not list(private_paths([tmp_path / "README.md", tmp_path / "audit.json"]))
    write_audit(tmp_path, run, REPORT, paths=True)
    assert len(list(private_paths([tmp_path / "audit.json"]))) == 2


def test_names_that_others_may_read(tmp_path: Path) -> None:
    assert public_name("owner/model@v1") == "owner/model@v1"
    assert public_name(str(tmp_path / "base")) == "base"
    assert public_name("embedded") == "embedded"
    assert without_folders({"a": ["/x/y", "~/z", 3, "x/y"]}) == {"a": ["y", "z", 3, "x/y"]}
