"""torchmetrics' text metrics against scores of other libraries."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torchmetrics.text import BLEUScore, SacreBLEUScore, TranslationEditRate

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics.torchmetrics_text import TorchmetricsText
from dsvl_tune.evaluation.scoring import aggregate_scores

GOLDEN = Path(__file__).parents[2] / "golden" / "benchmarks" / "captions.jsonl"
"""Corpora of drawn captions, scored by sacrebleu 2.6.0 and torchmetrics 1.9.0 (among others)."""


def corpora() -> list[dict[str, Any]]:
    return [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]


def answers(corpus: dict[str, Any]) -> list[Answer]:
    return [
        Answer(
            source=key,
            question_type="",
            question="",
            references=tuple(corpus["references"][key]),
            text=text,
        )
        for key, text in corpus["predictions"].items()
    ]


def bleu(corpus: dict[str, Any]) -> float:
    metric = TorchmetricsText(SacreBLEUScore())
    return aggregate_scores(answers(corpus), [metric])["SacreBLEUScore"]


def test_bleu_of_a_corpus_is_that_of_sacrebleu() -> None:
    """One corpus with predictions of a single word differs; torchmetrics counts them otherwise."""
    golden = corpora()
    differences = [abs(bleu(corpus) - corpus["sacrebleu"] / 100) for corpus in golden]
    assert len(golden) == 24
    assert sum(difference > 1e-5 for difference in differences) == 1
    assert max(differences) < 0.01


def test_each_answer_has_its_own_score() -> None:
    metric = TorchmetricsText(BLEUScore())
    sentence = "a small dog sits on a bench"
    assert metric.score(sentence, ["a red bus", sentence]) == pytest.approx(1.0)
    assert metric.score("a red bus stops here", [sentence]) == 0.0


def test_name_and_direction_are_those_of_the_metric() -> None:
    metric = TorchmetricsText(TranslationEditRate())
    assert (metric.name, metric.higher_is_better) == ("TranslationEditRate", False)


def _process(rank: int, init: str, out: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=init, rank=rank, world_size=2, timeout=timedelta(seconds=20)
    )
    if rank == 0:
        Path(out).write_text(repr(bleu(corpora()[0])))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_one_process_of_two_can_score(tmp_path: Path) -> None:
    """The trap: torchmetrics' `compute` waits for the other process."""
    out = tmp_path / "score"
    arguments = (f"file://{tmp_path}/group", str(out))
    torch.multiprocessing.spawn(_process, args=arguments, nprocs=2)
    assert out.read_text() == repr(bleu(corpora()[0]))
