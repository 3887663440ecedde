"""The preview page: self-contained, true to what is trained on, and safe against any row."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dsvl_tune.cli.commands.preview import main
from dsvl_tune.core.types import IGNORE_INDEX, ImageRef
from dsvl_tune.data.images.load import load_image
from dsvl_tune.datamodules import InstructDataModule
from dsvl_tune.families.deepseek_vl.pixels import to_square
from dsvl_tune.report.data_preview import MORE


class Page(HTMLParser):
    """Spans of tokens with class, title and text; pictures; every address that the page names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.spans: list[tuple[str, str, str]] = []
        self.pictures: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.tags.add(tag)
        if tag == "span":
            self.spans.append((given.get("class") or "", given.get("title") or "", ""))
        if tag == "img":
            self.pictures.append(given["src"] or "")

    def handle_data(self, data: str) -> None:
        if self.spans:
            self.spans[-1] = (*self.spans[-1][:2], self.spans[-1][2] + data)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    rows = [
        {"question": "<image>What?", "answer": "That <b>one</b>", "image": "a.png"},
        {"question": "<image>Which\n?", "answer": "5 m² in 北京 🙂 �", "image": "a.png"},
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Ho", "weight": 0.25},
            ]
        },
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "rows.jsonl"


def test_the_page_shows_what_is_trained_on(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    source = ["--data", "dsvl_tune.datamodules.InstructDataModule", "--data.train", str(data)]
    keys = ["--data.validation_rows", "0", "--data.batch_size", "1", "--seed_everything", "3"]
    main(["--model.checkpoint", str(checkpoint), *source, *keys, "--out", str(out)])
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"https?://|<link|url\(", text) and "<b>one</b>" not in text
    assert f"File: {data}" in text and f"Checkpoint: {checkpoint}" in text
    assert not page.tags & {"link", "iframe"}
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]+)"', text)[0])
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )

    module = InstructDataModule(
        str(data), checkpoint=str(checkpoint), validation_rows=0, batch_size=1, seed=3
    )
    module.setup("fit")
    shown = [span for span in page.spans[4:] if span[1].startswith("id ")]
    expected = []
    for batch in module.train_dataloader():
        ids, labels, weights = (
            t[0].tolist() for t in (batch.input_ids, batch.labels, batch.loss_weights)
        )
        assert module.processor is not None
        within = set(module.processor.family.image_token_ids(module.processor, None, 1))
        expected += [
            (token, label != IGNORE_INDEX, weight)
            for token, label, weight in zip(ids, labels, weights, strict=True)
            if token not in within
        ]
    found = [
        (
            int(re.findall(r"id (\d+)", title)[0]),
            "supervised" in kind,
            float(title.rpartition(" ")[2]),
        )
        for kind, title, _ in shown
    ]
    assert found == expected
    assert sum(kind == "branch" for kind, _, _ in page.spans) == 2
    assert {"0.25"} == set(re.findall(r"<sub>(.*?)</sub>", text))
    assert sum("end▁of▁sentence" in words and "special" in kind for kind, _, words in shown) == 3
    whole = "".join(words for _, _, words in shown).replace(MORE, "").replace("·", " ")
    assert all(character in whole for character in ("5 m² in 北京 🙂", "That <b>one</b>"))
    assert sum(words == MORE for _, _, words in shown) > 3 and "Â" not in whole
    check_pictures(page, module, data.parent / "a.png")


def check_pictures(page: Page, module: InstructDataModule, path: Path) -> None:
    """The original, then the padded square to a level; the other input has its tower's size."""
    settings = module.read_processor().image_settings
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in page.pictures
    ]
    assert [picture.size for picture in pictures] == [
        (50, 30),
        *((tower.size, tower.size) for tower in (settings.sam, settings.siglip) if tower),
    ]
    square = np.array(to_square(load_image(ImageRef(path, "a"), "x"), settings))
    assert torch.equal(torch.from_numpy(np.array(pictures[1])), torch.from_numpy(square))


def test_tiles_are_shown_in_their_grid(deepseek_vl2_checkpoint: Path, tmp_path: Path) -> None:
    """Each is the part of the padded picture at the row and column that its caption names."""
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    row = {"question": "<image>What?", "answer": "That", "image": "a.png"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    out = tmp_path / "page.html"
    source = ["--data", "InstructDataModule", "--data.train", str(tmp_path / "rows.jsonl")]
    keys = ["--data.validation_rows", "0", "--data.batch_size", "1"]
    main(["--model.checkpoint", str(deepseek_vl2_checkpoint), *source, *keys, "--out", str(out)])
    text = out.read_text(encoding="utf-8")
    places = re.findall(r"tile (\d) of 2 x 2: row (\d), column (\d), 40 x 40", text)
    assert [tuple(map(int, place)) for place in places] == [
        (1, 1, 1),
        (2, 1, 2),
        (3, 2, 1),
        (4, 2, 2),
    ]
    assert re.search(r'class="tiles" style="--columns: 2">\s*<figure>', text)
    encoded = [url.partition("base64,")[2] for url in Page(text).pictures]
    _, whole, *tiles = [Image.open(io.BytesIO(base64.b64decode(url))) for url in encoded]
    assert whole.size == (40, 40)
    for tile, (_, high, wide) in zip(tiles, places, strict=True):
        top, left = 40 * (int(high) - 1), 40 * (int(wide) - 1)
        assert (
            np.abs(np.asarray(tile) - noise[top : top + 40, left : left + 40].astype(int)).max()
            <= 1
        )
