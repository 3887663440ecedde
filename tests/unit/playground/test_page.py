"""The page's handlers, asked over HTTP as the browser asks them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsvl_tune.evaluation.chat_model import load_model
from dsvl_tune.playground.answering import Column
from dsvl_tune.playground.verdicts import VerdictFolder

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'dsvl-tune[demo]'")
CHART = Path(__file__).parents[3] / "examples" / "chart.png"
QUESTION = "What is the value of the red bar?"


@pytest.fixture(scope="module")
def served(
    hybrid_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Address and folder of a page with the embedded model next to a random one."""
    from dsvl_tune.playground.page import Page, launch

    folder = tmp_path_factory.mktemp("verdicts") / "rows"
    columns = [
        Column("Base", load_model(hybrid_checkpoint)),
        Column("Tuned", load_model("embedded")),
    ]
    blocks, address = launch(Page(columns, VerdictFolder(folder), "", 6), None)
    yield address, folder
    blocks.close(verbose=False)


def test_questions_are_answered_and_judged(served: tuple[str, Path]) -> None:
    from gradio_client import Client, handle_file

    address, folder = served
    client = Client(address, verbose=False)
    job = client.submit(handle_file(CHART), QUESTION, api_name="/ask")
    base, tuned = job.result(timeout=60)
    expected = load_model("embedded").answer(QUESTION, CHART, system="", max_new_tokens=6)
    assert tuned == expected and base != tuned
    assert len(job.outputs()) > 4
    status = client.predict(api_name="/right")[-1]
    assert status.startswith("1 right, 0 corrected, 0 wrong") and str(folder) in status
    client.predict("50", api_name="/correct")
    (row,) = map(json.loads, (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines())
    assert row["references"] == ["50"] and row["compared"] == base
    assert (folder / row["images"][0]).read_bytes() == CHART.read_bytes()
    client.predict(api_name="/wrong")
    assert (folder / "rows.jsonl").read_text() == ""


def test_mistakes_are_shown_and_nothing_is_judged(served: tuple[str, Path], tmp_path: Path) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(served[0], verbose=False)
    (tmp_path / "x.png").write_bytes(CHART.read_bytes()[:400])
    (tmp_path / "y.png").write_bytes(b"%PDF-1.7")
    for picture, question, message in (
        (handle_file(tmp_path / "x.png"), QUESTION, "damaged or truncated"),
        (handle_file(tmp_path / "y.png"), QUESTION, "cannot identify image"),
        (None, "", "it is empty"),
        (None, "<image>What?", "placeholder"),
    ):
        with pytest.raises(AppError, match=message):
            client.predict(picture, question, api_name="/ask")
    with pytest.raises(AppError, match="Ask one first"):
        client.predict(api_name="/right")


def test_only_uploads_are_read(served: tuple[str, Path]) -> None:
    """Neither as a picture nor as a download can a page name a file of this machine."""
    import httpx

    def events_of(path: str) -> str:
        picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
        asked = httpx.post(f"{api}/call/ask", json={"data": [picture, QUESTION]})
        return httpx.get(f"{api}/call/ask/{asked.json()['event_id']}", timeout=60).text

    api = f"{served[0]}gradio_api"
    (uploaded,) = httpx.post(f"{api}/upload", files={"files": CHART.open("rb")}).json()
    assert "event: complete" in events_of(uploaded)
    assert events_of(str(CHART)).startswith("event: error")
    for path in (CHART, "/etc/hostname"):
        assert httpx.get(f"{api}/file={path}").status_code == 403


def test_the_page_is_local(served: tuple[str, Path]) -> None:
    import httpx

    address = served[0]
    assert address.startswith("http://127.0.0.1:")
    for path in ("", "theme.css"):
        text = httpx.get(address + path).text
        assert text and not re.search(
            r"""(src=|<link[^>]*href=|@import |url\()["']?https?:""", text
        )
