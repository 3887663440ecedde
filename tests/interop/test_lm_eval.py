"""Exports in lm-evaluation-harness: an answer about an image, and the likelihood of a text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from environments import environment, run_script
from trained_model import Record, Trained
from transformers import AutoModelForImageTextToText, AutoTokenizer

from dsvl_tune.core.interop import LM_EVAL


def test_answers_and_likelihoods(trained: Trained, tmp_path: Path, record: Record) -> None:
    python = environment("lm-eval", [f"lm-eval[hf]=={LM_EVAL}"], over_ours=True)
    out = tmp_path / "found.json"
    asked = trained.inputs.with_suffix(".json")
    said = run_script(python, "lm_eval_answers.py", trained.transformers, asked, out)
    assert said.splitlines()[-1] == LM_EVAL
    found = json.loads(out.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(trained.transformers)
    answer = tokenizer.decode(trained.greedy_ids[0], skip_special_tokens=True)
    assert found["answer"] == answer
    assert found["likelihood"] == pytest.approx(likelihood(trained, *found["pair"]), rel=1e-4)
    record(
        f"lm-eval {LM_EVAL}",
        f"merged, {trained.kind}: `hf-multimodal` without a second start token, `hf`",
        "same greedy answer, same log-likelihoods",
    )


def likelihood(trained: Trained, context: str, continuation: str) -> float:
    """Sum of the log-probabilities of a continuation's tokens, by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(trained.transformers)
    begin, whole = (tokenizer(text)["input_ids"] for text in (context, context + continuation))
    assert whole[: len(begin)] == begin
    model = AutoModelForImageTextToText.from_pretrained(trained.transformers, dtype=torch.float32)
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    ids = torch.tensor(whole[len(begin) :])
    return float(scores[len(begin) - 1 : -1].gather(1, ids[:, None]).sum())
