"""The shipped recipe in a few steps, end to end: fit, merge, chat, transformers and peft."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText

from dsvl_tune.cli.main import main
from dsvl_tune.core.checkpoint import EMBEDDED
from dsvl_tune.data.encoding.collate import collate_prompts, normalize_images
from dsvl_tune.data.encoding.tokenize import encode_prompt
from dsvl_tune.demo.charts import chart_row
from dsvl_tune.export.verify import exact_logits
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import load_trained

ROOT = Path(__file__).parents[2]
FEW = [
    "--trainer.max_steps",
    "4",
    "--trainer.val_check_interval",
    "2",
    "--trainer.enable_progress_bar",
    "false",
    "--data.train_charts",
    "16",
    "--data.validation_charts",
    "2",
    "--data.test_charts",
    "3",
    "--data.retention_scenes",
    "1",
    "--data.batch_size",
    "2",
    "--data.num_workers",
    "0",
]


def dsvl_tune(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", *arguments])
    main()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder in which the recipe ran and its result was merged."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        dsvl_tune(patch, "fit", "--config", "charts_lora", *FEW)
        dsvl_tune(patch, "merge", "runs/charts_lora", "--out", "merged")
    return folder


def test_the_run_folder_describes_the_run(finished: Path) -> None:
    run = finished / "runs" / "charts_lora"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    for key in ("before", "after", "majority_baseline"):
        assert 0 <= summary[key]["relaxed_accuracy"] <= 1
    assert summary["steps"] == 4
    assert summary["wall_s"] > 0
    assert summary["peak_rss_bytes"] > 1e8
    adapter = json.loads((run / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert adapter["peft_type"] == "LORA"
    for name in (
        "config.yaml",
        "plan.json",
        "manifest.json",
        "checkpoints/last.ckpt",
        "predictions/test_after.jsonl",
        "report.html",
        "report_plots/loss.png",
    ):
        assert (run / name).is_file(), name
    assert list((run / "metrics").rglob("metrics.csv"))


def test_the_report_shows_the_figures_of_the_run(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = finished / "runs" / "charts_lora"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    written = (run / "report.html").read_text(encoding="utf-8")
    assert f"<td>{100 * summary['after']['relaxed_accuracy']:.1f} %</td>" in written
    assert written.count('<img src="data:image/jpeg;base64,') > 20
    dsvl_tune(monkeypatch, "report", str(run), "--out", str(tmp_path / "again.html"))
    again = (tmp_path / "again.html").read_text(encoding="utf-8")
    assert pictures(again) == pictures(written)  # also from the data of the recipe
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        dsvl_tune(monkeypatch, "report", str(run), "--out", str(tmp_path / "mine.html"))
    assert (tmp_path / "mine.html").read_text() == "mine"


def pictures(page: str) -> list[str]:
    """Every picture of a page, in order."""
    return re.findall(r'src="(data:image/[^"]+)"', page)


def test_base_and_adapter_merged_and_plain_peft_agree(finished: Path) -> None:
    """In float64 only the merge's rounding is left; `merge` measured its effect on this model."""
    processor = open_checkpoint(EMBEDDED).processor
    prompts = [encode_prompt(c, processor) for seed in (1, 2) for c in chart_row(seed, "test")]
    batch = normalize_images(collate_prompts(prompts, processor.pad_id), processor)
    assert set(batch.vision_inputs) == {"pixel_values", "high_res_pixel_values"}
    adapter = finished / "runs" / "charts_lora" / "adapter"
    trained = create_model(open_checkpoint(EMBEDDED))
    load_trained(trained, adapter)
    plain = AutoModelForImageTextToText.from_pretrained(finished / "merged")
    peft = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(EMBEDDED), adapter)

    wanted = exact_logits(trained, batch)
    spread = wanted.std()
    report = json.loads((finished / "merged" / "merge_report.json").read_text(encoding="utf-8"))
    bound = report["float64"]["mean_bound"]
    assert bound <= 1e-6 * spread
    assert (exact_logits(plain.eval(), batch) - wanted).abs().mean() <= bound
    # the same products in another order: measured 2e-14 of the spread
    assert (exact_logits(peft.eval(), batch) - wanted).abs().max() <= 1e-11 * spread
    assert (
        exact_logits(create_model(open_checkpoint(EMBEDDED)), batch) - wanted
    ).abs().mean() > 100 * bound


def test_chat_answers_alike_with_merged_and_adapter(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    source = chart_row(5, "test")[0].images[0].content
    assert isinstance(source, Image.Image)
    source.save("chart.png")
    question = ["--image", "chart.png", "--prompt", "What is the number of bars?", "--system", ""]
    answers = []
    for model in (
        ["--model", "merged"],
        ["--model", "embedded", "--adapter", "runs/charts_lora/adapter"],
    ):
        capsys.readouterr()
        dsvl_tune(monkeypatch, "chat", *model, *question)
        answers.append(capsys.readouterr().out.strip())
    assert answers[0] == answers[1]
    assert 0 < len(answers[0]) < 40  # it stops at the end token, long before the 512 allowed


def test_validate_scores_the_merged_checkpoint(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    dsvl_tune(
        monkeypatch, "validate", "--config", "charts_lora", "--model.checkpoint", "merged", *FEW
    )
    output = capsys.readouterr().out
    assert "loss: " in output and "\nrelaxed_accuracy " in output


def test_merge_does_not_write_over_a_folder(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    with pytest.raises(SystemExit) as ended:
        dsvl_tune(monkeypatch, "merge", "runs/charts_lora", "--out", "merged")
    assert ended.value.code == 2


def test_own_data_by_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of the README: twelve rows are an epoch of two steps, validation every ten."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (command,) = [line for line in readme.splitlines() if "--run_name own_data" in line]
    monkeypatch.chdir(ROOT)
    dsvl_tune(monkeypatch, *shlex.split(command)[1:], "--run_dir", str(tmp_path))
    run = tmp_path / "own_data"
    assert json.loads((run / "summary.json").read_text(encoding="utf-8"))["steps"] == 20
    assert list((run / "checkpoints").glob("best-*"))
