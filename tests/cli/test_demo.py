"""`dsvl-tune demo` in a real browser, from the dropped picture to the row on disk."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import pytest
from command_line import refused
from runs import wait_for

if TYPE_CHECKING:
    from runs import Commands

ROOT = Path(__file__).parents[2]
CHART = ROOT / "examples" / "chart.png"
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'dsvl-tune[demo]'")
    api = pytest.importorskip("playwright.sync_api", reason="a browser is driven by playwright")
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield running
        running.close()


def test_a_picture_is_asked_about_and_judged(
    browser: Any, commands: Commands, tmp_path: Path
) -> None:
    options = ["--model", "embedded", "--compare", "embedded", "--max_new_tokens", "6"]
    log = tmp_path / "log"
    process = commands.start(tmp_path, "demo", *options, TMPDIR=str(tmp_path))
    wait_for(lambda: log.exists() and "page: " in log.read_text(), 60)
    address = re.findall(r"page: (http://127\.0\.0\.1:\d+)/", log.read_text())[0]
    page = browser.new_page(viewport={"width": 400, "height": 900})
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(address)
    page.set_input_files("input[type=file]", CHART)
    page.get_by_label("Question").fill("How high is red?")
    page.get_by_role("button", name="Ask", exact=True).click()
    save = page.get_by_label("Or type the right answer and press Enter")
    save.wait_for(timeout=60_000)
    answers = [box.input_value() for box in page.locator("textarea:disabled").all()]
    assert len(answers) == 2
    assert answers[0] == answers[1] != ""
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    save.fill("50")
    save.press("Enter")
    page.get_by_text("0 right, 1 corrected, 0 wrong").wait_for(timeout=10_000)
    assert {urlparse(url).netloc for url in requested} == {urlparse(address).netloc}
    (row,) = map(json.loads, (tmp_path / "demo_rows" / "rows.jsonl").read_text().splitlines())
    assert (row["prediction"], row["references"]) == (answers[1], ["50"])
    assert (tmp_path / "demo_rows" / row["images"][0]).read_bytes() == CHART.read_bytes()
    os.kill(process, signal.SIGINT)
    assert commands.ends(process, 20) == 130
    assert not list(tmp_path.glob("dsvl-tune-demo-*"))  # the uploads


def test_bad_options_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'dsvl-tune[demo]'")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for options, named in (
        (["--model", "nothing-here"], "nothing-here"),
        (["--model", "embedded", "--out", "mine"], "--out mine"),
        (["--model", "embedded", "--port", "0"], "--port"),
    ):
        refused(["demo", *options], capsys, monkeypatch, [named])


def test_without_gradio_the_message_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dsvl_tune.cli.commands.demo.find_spec", lambda name: None)
    refused(["demo", "--model", "embedded"], capsys, monkeypatch, ["dsvl-tune[demo]"])
