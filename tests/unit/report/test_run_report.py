"""The report: true to the run's files, self-contained, and safe against any answer."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from dsvl_tune.core.errors import UserError
from dsvl_tune.core.types import Conversation, ImageRef, Turn
from dsvl_tune.evaluation.text_task_report import write_report
from dsvl_tune.report.pictures import LONGEST_SIDE
from dsvl_tune.report.plots import plots_of, svg
from dsvl_tune.report.run_record import RunRecord, read_curves, read_run
from dsvl_tune.report.tables import Cell, results_tables
from dsvl_tune.report.write_page import check_page, is_report, write_page

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
ANSWERS = {
    "before": ["no", "7", "red", "yes"],
    "after": ["yes", "5", ATTACK, "no"],
}
REFERENCES = ["yes", "5", "blue", "no"]
TYPES = ["choice", "number", "color", "choice"]


def write_run(folder: Path, after: list[str] | None = None, lr: float = 0.1) -> Path:
    """A run folder with the files that `fit` leaves, without the weights."""
    (folder / "predictions").mkdir(parents=True)
    (folder / "metrics" / "version_0").mkdir(parents=True)
    config = {
        "model": {"checkpoint": "embedded", "lr": lr},
        "data": {"class_path": "my.Data", "init_args": {"train": "rows.jsonl", "batch_size": 8}},
        "run_name": folder.name,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    plan = {"aligner": {"mode": "lora", "rank": 4, "lr": None}, "lm_head": {"mode": "frozen"}}
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "manifest.json").write_text(json.dumps({"libraries": {"torch": "2.13.0"}}))
    summary: dict[str, Any] = {
        "before": {"exact_match": 0.25, "exact_match/choice": 0.0},
        "after": {"exact_match": 0.75, "exact_match/choice": 1.0},
        "majority_baseline": {"exact_match": 0.5},
        "changes": {"exact_match": {"difference": 0.5, "low": 0.25, "high": 0.75}},
        "wall_s": 61.0,
        "peak_rss_bytes": 2_000_000_000,
        "peak_gpu_bytes": 0,
        "steps": 12,
        "trainable_parameters": 3456,
        "best_checkpoint": "checkpoints/best-step=12.ckpt",
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    for when, answers in {**ANSWERS, "after": after or ANSWERS["after"]}.items():
        lines = [
            {
                "source": f"rows.jsonl:{number // 2}",
                "question": f"Question {number}?",
                "question_type": TYPES[number],
                "references": [REFERENCES[number]],
                "answer": answer,
                "complete": True,
                "scores": {"exact_match": float(answer == REFERENCES[number])},
            }
            for number, answer in enumerate(answers)
        ]
        path = folder / "predictions" / f"test_{when}.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    write_metrics(folder, 0, [(0, 3.0), (10, 2.0), (20, float("nan"))])
    return folder


def write_metrics(run: Path, version: int, losses: list[tuple[int, float]]) -> None:
    """The CSV of a start of the run, as Lightning's logger writes it."""
    folder = run / "metrics" / f"version_{version}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "train/loss", "val/exact_match"])
        writer.writerows([0, step, loss, ""] for step, loss in losses)


def rows(folder: Path) -> list[list[Conversation]]:
    """The rows of the questions: the first with a picture of 1,000 x 500 px."""
    Image.new("RGBA", (1000, 500), (200, 10, 30, 255)).save(folder / "red.png")
    image = ImageRef(folder / "red.png", "red.png")
    return [
        [Conversation((Turn("user", parts),), source=f"rows.jsonl:{row}")]
        for row, parts in enumerate([(image, "Question 0?"), ("Question 2?",)])
    ]


def write_text_tasks(folder: Path, adapter: Path | None, accuracy: float) -> None:
    """What `benchmark --text_tasks` leaves; each figure comes with its standard error."""
    folder.mkdir()
    figures = {"acc,none": accuracy, "acc_stderr,none": 0.125, "alias": 1.0}
    found = {"version": "0.4.13", "tasks": {"few": figures}}
    identity = {"model": "embedded", "adapter": None if adapter is None else str(adapter)}
    write_report(folder, identity, ["dsvl-tune", "benchmark", str(adapter)], found)


def test_it_shows_text_tasks_of_the_base_and_of_the_adapter(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    others = tmp_path / "others"
    for number, adapter in enumerate((run / "adapter", others)):
        adapter.mkdir()
        (adapter / "adapter_model.safetensors").write_bytes(bytes([number]))
    write_text_tasks(run / "text_before", None, 0.25)
    write_text_tasks(run / "text_after", run / "adapter", 0.5)
    write_text_tasks(run / "text_others", others, 0.75)
    page = tmp_path / "page.html"
    write_page([read_run(run)], page, {"test": rows(tmp_path)})
    text = page.read_text(encoding="utf-8")
    words = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    assert "few acc 0.2500 ± 0.1250 0.5000 ± 0.1250" in words
    assert f"dsvl-tune benchmark {run / 'adapter'}" in words
    assert "0.7500" not in words
    run.rename(tmp_path / "moved")  # the adapter is known by its weights
    assert set(read_run(tmp_path / "moved").text_tasks) == {"before", "after"}
    (tmp_path / "moved/text_after/text_tasks.json").write_text("[1]")
    with pytest.raises(UserError, match=r"text_tasks\.json: is no report of text tasks"):
        read_run(tmp_path / "moved")


def test_plots_replace_only_those_of_an_earlier_report(tmp_path: Path) -> None:
    page, plots = tmp_path / "page.html", tmp_path / "page_plots"
    plots.mkdir()
    check_page(page)
    (plots / "loss.png").symlink_to(tmp_path / "thesis")
    with pytest.raises(UserError, match="its plots go into .*page_plots"):
        check_page(page)
    write_page([read_run(write_run(tmp_path / "mine"))], page, {})
    check_page(page)
    assert (plots / "loss.png").is_file() and not (tmp_path / "thesis").exists()
    page.unlink()
    (plots / "loss.png").rename(tmp_path / "thesis")
    plots.rmdir()
    plots.write_text("a file")
    with pytest.raises(UserError, match="its plots go into .*page_plots"):
        check_page(page)


def test_it_shows_figures_answers_and_images(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page([read_run(write_run(tmp_path / "mine"))], page, {"test": rows(tmp_path)})
    text = page.read_text(encoding="utf-8")
    assert is_report(page)
    table = re.sub(r"<[^>]+>|\s+", " ", text[text.index("<table>") : text.index("</table>")])
    assert re.search(
        r"all questions +4 +25\.0 % +75\.0 % +\+50\.0 +\[25\.0, 75\.0\] +50\.0 %", table
    )
    assert re.search(r"choice +2 +0\.0 % +100\.0 % +\+100\.0 +- +-", table)
    pictures = [Image.open(io.BytesIO(base64.b64decode(found))) for found in data_urls(text)]
    assert [picture.size for picture in pictures] == [(LONGEST_SIDE, LONGEST_SIDE // 2)] * 2
    assert all(abs(picture.getpixel((9, 9))[0] - 200) < 5 for picture in pictures)
    cards = re.findall(r'data-change="([^"]*)" data-after="([^"]*)"', text)
    assert cards == [("1", "1"), ("1", "1"), ("1", "1"), ("0", "0")]
    drawn = sorted(path.name for path in (tmp_path / "page_plots").iterdir())
    assert drawn == ["loss.png"]
    with Image.open(tmp_path / "page_plots" / "loss.png") as image:
        assert image.size == (1440, 810)


def test_each_figure_is_printed_as_its_metric_prints_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    summary = json.loads((run / "summary.json").read_text())
    summary["before"] |= {"cer": 0.5, "own": 1.5}
    summary["after"] |= {"cer": 0.25, "own": 2.5}
    (run / "summary.json").write_text(json.dumps(summary))
    tables = {table.caption.partition(":")[0]: table for table in results_tables(read_run(run))}
    assert [cell.text for cell in tables["Own"].rows[0][2:5]] == ["1.500", "2.500", "+1.000"]
    assert tables["Cer"].rows[0][4] == Cell("-25.0", "good")
    assert tables["Cer"].caption.endswith("lower is better")


def data_urls(text: str) -> list[str]:
    """The base64 content of every JPEG in a page."""
    return re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)


def test_it_loads_nothing_and_runs_its_own_script_only(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page([read_run(write_run(tmp_path / "mine"))], page, {})
    text = page.read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    assert ATTACK not in text
    assert "onerror=alert(2)&gt;" in text
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(text)
    assert "default-src 'none'" in html.unescape(text)
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= namespaces


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_runs_the_script_under_the_policy(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page([read_run(write_run(tmp_path / "mine"))], page, {"test": rows(tmp_path)})
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    command = ["chromium", *flags, "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.search(r"<output[^>]*>4 of 4</output>", shown)


def test_a_resumed_run_has_one_curve(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    write_metrics(run, 10, [(30, 0.5)])
    write_metrics(run, 2, [(10, 1.5), (30, 9.0)])
    curve = [(0, 3.0), (10, 1.5), (30, 0.5)]  # without the value that is not finite
    assert read_curves(run / "metrics") == {"train/loss": curve}
    (plot,) = plots_of([read_run(run)])
    assert plot.lines == {"train/loss": curve}
    assert svg(plot) == svg(plot)  # the same bytes again: a page can be compared


def test_sources_of_a_mixture_have_a_plot_of_their_own() -> None:
    names = ["lr/aligner", "train/loss", "val/loss", "train/loss_text", "val/anls"]
    names += ["train/loss/charts", "val/loss/charts", "train/loss/anls"]
    curves = {name: [(0, 1.0), (1, 0.5)] for name in names}
    plots = plots_of([RunRecord(Path("run"), {}, {}, {}, {}, curves, {}, {})])
    assert [set(plot.lines) for plot in plots] == [
        {"train/loss", "val/loss", "train/loss_text"},
        {"train/loss/charts", "val/loss/charts", "train/loss/anls"},
        {"val/anls"},
        {"lr/aligner"},
    ]


def test_a_legend_leaves_out_what_all_of_its_names_begin_with() -> None:
    """Long ones would be cut at both sides of the plot."""
    names = [f"val/scenes/relaxed_accuracy{rest}" for rest in ("", "/scene end", "/scene limit")]
    curves = {name: [(0, 1.0), (1, 0.5)] for name in names}
    (plot,) = plots_of([RunRecord(Path("run"), {}, {}, {}, {}, curves, {}, {})])
    texts = re.findall(r">([^<>]*)</text>", svg(plot))
    assert {"relaxed_accuracy", "scene end", "scene limit"} <= set(texts)


def test_runs_beside_each_other(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one")
    other = write_run(tmp_path / "two", after=["yes", "6", "blue", "no"], lr=0.2)
    page = tmp_path / "page.html"
    write_page([read_run(one), read_run(other)], page, {"test": rows(tmp_path)})
    text = re.sub(r"\s+", " ", page.read_text(encoding="utf-8"))
    assert '<td>model.lr</td><td class="text">0.1</td><td class="text">0.2</td>' in text
    assert "data.init_args" not in text
    assert re.findall(r"<strong>(Question \d)\?</strong>", text) == ["Question 1", "Question 2"]
    assert '<dt>two</dt><dd class="good">blue</dd>' in text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", None, "not finished"),
        ("config.yaml", None, "no config.yaml"),
        ("summary.json", "[1]", "summary.json: is damaged"),
        ("plan.json", "{", "plan.json: is damaged"),
        ("predictions/test_after.jsonl", '{"source": 1}\n', "test_after.jsonl:1"),
        ("predictions/test_after.jsonl", "[]\n", "test_after.jsonl:1"),
        ("metrics/version_0/metrics.csv", "step,train/loss\n1,x\n", "metrics.csv, line 2"),
    ],
)
def test_damage_is_named(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    run = write_run(tmp_path / "mine")
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_text(content)
    with pytest.raises(UserError, match=message):
        read_run(run)


def test_each_figure_of_a_held_out_set_has_its_plot(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    names = ["val/general/anls", "val/general/anls/count", "val/general/exact_match", "val/anls"]
    with (run / "metrics" / "version_0" / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", *names])
        writer.writerow([0, 5, 0.1, 0.2, 0.3, 0.4])
    lines = {plot.title: list(plot.lines) for plot in plots_of([read_run(run)])}
    assert lines["Anls on general"] == ["val/general/anls", "val/general/anls/count"]
    assert lines["Exact match on general"] == ["val/general/exact_match"]
    assert lines["Anls on validation rows"] == ["val/anls"]
