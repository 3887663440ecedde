"""Perplexity of a text file against transformers' own loss, window by window."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.encoding.text_windows import make_texts, read_text_windows
from dsvl_tune.evaluation.held_out_sets import sets_figures
from dsvl_tune.evaluation.metrics.token_scores import TOKEN_METRICS
from dsvl_tune.evaluation.scoring import score_tables
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.training.text_scores import score_texts

TEXT = "Nothing is lost or altered silently.\nA café, an invoice: 24.50 €.\n" * 9


def test_perplexity_is_that_of_the_mean_loss_of_all_tokens(
    checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "prose.txt").write_text(TEXT, encoding="utf-8")
    base = open_checkpoint(checkpoint)
    model = create_model(base).eval()
    tokenizer = base.processor.tokenizer
    windows = read_text_windows(tmp_path / "prose.txt", base.processor, 100)
    assert len(windows) > 3
    records = []
    for first in range(0, len(windows), 2):  # the last window is shorter, and so is its batch
        numbered = [(i, windows[i]) for i in range(first, min(first + 2, len(windows)))]
        records += score_texts(model, tokenizer, make_texts(numbered, base.processor.pad_id))

    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    loss = correct = 0.0
    for start in range(0, len(ids), 99):
        window = torch.tensor([[tokenizer.bos_token_id, *ids[start : start + 99]]])
        with torch.no_grad():
            output = model(input_ids=window, labels=window)
        scored = window.shape[1] - 1
        loss += output.loss.item() * scored
        correct += (output.logits[0, :-1].argmax(-1) == window[0, 1:]).sum().item()
    figures = sets_figures({"prose": score_tables(records, TOKEN_METRICS)})
    assert figures["prose/perplexity"] == pytest.approx(math.exp(loss / len(ids)), rel=1e-5)
    assert figures["prose/token_accuracy"] == pytest.approx(correct / len(ids))
    assert TEXT.startswith(records[0].references[0][:50])


@pytest.mark.parametrize(
    ("content", "fragment"),
    [(b"", "no text"), (b"\xff\xfe", "byte 0 is no UTF-8"), (None, "could not be read")],
)
def test_what_is_no_text_is_refused(
    checkpoint: Path, tmp_path: Path, content: bytes | None, fragment: str
) -> None:
    path = tmp_path / "prose.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=fragment):
        read_text_windows(path, open_checkpoint(checkpoint).processor, None)
