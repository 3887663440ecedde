"""Every metric against the scores that the benchmarks' own code gave, line by line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.metrics import METRICS, Metric
from dsvl_tune.evaluation.metrics.choice import Choice, row_options
from dsvl_tune.evaluation.metrics.choice_readers import CHOICE_READERS
from dsvl_tune.evaluation.metrics.cmmmu import CHOICE, CMMMU
from dsvl_tune.evaluation.metrics.exact_match import ExactMatch
from dsvl_tune.evaluation.metrics.mathvista import MathVista, extract
from dsvl_tune.evaluation.metrics.mathvista import normalize as normalize_value
from dsvl_tune.evaluation.metrics.mmmu import MMMU, VLMEvalKitMMMU, open_candidates
from dsvl_tune.evaluation.metrics.vqa_accuracy import normalize
from dsvl_tune.evaluation.metrics.yes_no import read_yes_no, read_yes_no_vlmevalkit
from dsvl_tune.evaluation.scoring import aggregate_scores

GOLDEN = Path(__file__).parents[2] / "golden" / "benchmarks"


def golden(name: str) -> list[dict[str, Any]]:
    text = (GOLDEN / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def answered(
    text: str, reference: str | Sequence[str], source: str = "case", **fields: Any
) -> Answer:
    references = (reference,) if isinstance(reference, str) else tuple(reference)
    return Answer(
        source=source,
        question_type="",
        question="",
        references=references,
        text=text,
        fields=fields,
    )


def of_case(case: dict[str, Any]) -> Answer:
    fields = {key: case[key] for key in ("options", "dataset_name") if key in case}
    return answered(case["prediction"], case["reference"], **fields)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("relaxed_accuracy", 600),
        ("anls", 600),
        ("vqa_accuracy", 600),
        ("exact_match", 300),
        ("ocrbench", 400),
        ("choice", 900),
        ("yes_no", 500),
    ],
)
def test_scores_are_the_official_ones(name: str, lines: int) -> None:
    cases = golden(name)
    assert len(cases) == lines
    scores = METRICS[name]().score_answers([of_case(case) for case in cases])
    assert scores == pytest.approx([case["score"] for case in cases], abs=1e-9)


@pytest.mark.parametrize("reader", ["vlmevalkit", "mmmu", "llava"])
def test_choices_are_read_as_each_readers_code_reads_them(reader: str) -> None:
    golden_name = {"mmmu": "mmmu_official", "llava": "llava_scienceqa"}.get(reader, reader)
    nothing = {"vlmevalkit": "Z", "mmmu": "<random>", "llava": "FAILED"}[reader]
    for case in golden("choice"):
        letter = CHOICE_READERS[reader](
            case["prediction"], row_options({"options": case["options"]})
        )
        assert (letter or nothing) == case["extracted_by"][golden_name], case


def test_the_first_character_is_read_as_lmms_eval_does() -> None:
    cases = golden("choice")
    scores = Choice("first_character").score_answers([of_case(case) for case in cases])
    assert scores == [case["scores"]["lmms_eval_seedbench"] for case in cases]


@pytest.mark.parametrize(
    ("metric", "key"),
    [
        (ExactMatch(ignore_case=False, ignore_punctuation=False), "plain"),
        (ExactMatch(ignore_punctuation=False), "ignore_case"),
    ],
)
def test_exact_match_normalizes_as_told(metric: Metric, key: str) -> None:
    cases = golden("exact_match")
    scores = metric.score_answers([of_case(case) for case in cases])
    assert scores == [case["scores"][key] for case in cases]


@pytest.mark.parametrize(("name", "read"), [("vqa_accuracy", normalize), ("yes_no", read_yes_no)])
def test_what_is_read_out_of_an_answer(name: str, read: Callable[[str], str]) -> None:
    for case in golden(name):
        assert read(case["prediction"]) == case["extracted"], case


def test_yes_no_figures_of_tables() -> None:
    for table in golden("pope_tables"):
        answers = [
            answered(row["prediction"], row["answer"])
            for row in table["rows"]
            for _ in row["category"].split(",")
        ]
        official = table["pope_official"]
        if sum(official[key] for key in ("TP", "FP", "TN", "FN")) != len(answers):
            answers = [answered(row["prediction"], row["answer"]) for row in table["rows"]]
        figures = aggregate_scores(answers, [METRICS["yes_no"]()])
        expected = {
            "yes_no": official["acc"],
            "yes_no_precision": official["precision"],
            "yes_no_recall": official["recall"],
            "yes_no_f1": official["f1"],
            "yes_no_yes_ratio": official["yes_ratio"],
        }
        assert figures == pytest.approx(expected)


@pytest.mark.parametrize("name", ["cer", "wer"])
def test_error_rates_are_those_of_jiwer(name: str) -> None:
    metric = METRICS[name]()
    for case in golden("error_rates"):
        if isinstance(case["prediction"], str):
            found = metric.score(case["prediction"], [case["reference"]])
        else:
            pairs = zip(case["prediction"], case["reference"], strict=True)
            found = aggregate_scores([answered(*pair) for pair in pairs], [metric])[name]
        assert found == pytest.approx(case["scores"][f"jiwer_{name}"], abs=1e-6), case


def corpora() -> list[tuple[dict[str, Any], list[Answer]]]:
    return [
        (
            corpus,
            [
                answered(text, corpus["references"][key])
                for key, text in corpus["predictions"].items()
            ],
        )
        for corpus in golden("captions")
    ]


def test_rouge_l_is_that_of_rouge_score() -> None:
    for corpus, answers in corpora():
        scores = METRICS["rouge_l"]().score_answers(answers)
        assert scores == pytest.approx(corpus["rouge_score_rougeL_f_best"])


def test_bleu_is_that_of_sacrebleu() -> None:
    for corpus, answers in corpora():
        assert aggregate_scores(answers, [METRICS["bleu"]()])["bleu"] == pytest.approx(
            corpus["sacrebleu"]
        )


def test_cider_is_that_of_pycocoevalcap() -> None:
    for corpus, answers in corpora():
        metric = METRICS["cider"]()
        expected = corpus["pycocoevalcap_raw"]
        assert aggregate_scores(answers, [metric])["cider"] == pytest.approx(expected["cider"])
        each = [expected["cider_each"][key] for key in corpus["predictions"]]
        assert metric.score_answers(answers) == pytest.approx(each)


def test_open_answers_are_read_as_mmmu_does() -> None:
    for case in golden("mmmu_open"):
        references = case["reference"]
        references = [references] if isinstance(references, str) else references
        assert MMMU().score(case["prediction"], references) == case["score"], case
        candidates = {str(one) for one in open_candidates(case["prediction"])}
        assert candidates == {str(one) for one in case["extracted"]}, case


def test_mmmu_is_scored_as_vlmevalkit_does() -> None:
    metric = VLMEvalKitMMMU()
    for case in golden("mmmu_open"):
        answer = answered(case["prediction"], case["reference"])
        assert metric.score_answer(answer) == case["scores"]["vlmevalkit"], case


def test_cmmmu_is_scored_by_the_official_code() -> None:
    for case in golden("cmmmu"):
        row = case["row"]
        options = {letter: row[f"option{n}"] for n, letter in enumerate("ABCD", 1)}
        named = options if row["type"] == CHOICE else {}
        answer = answered(case["prediction"], case["reference"], type=row["type"], options=named)
        assert CMMMU().score_answer(answer) == case["score"], case


def test_yes_and_no_are_read_as_vlmevalkit_does() -> None:
    for case in golden("yes_no"):
        expected = case["extracted_by"]["vlmevalkit"].lower()
        assert (read_yes_no_vlmevalkit(case["prediction"]) or "unknown") == expected, case


def test_mathvista_is_scored_by_its_quick_path() -> None:
    for case in golden("mathvista"):
        row = {**case["row"], "choices": case["row"]["choices"] or []}
        answer = answered(case["prediction"], row["answer"], **row)
        quick = case["results"]["official_quick"]
        assert extract(answer.text, row) == quick["extraction"], case
        assert normalize_value(extract(answer.text, row), row) == quick["prediction"], case
        assert MathVista().score_answer(answer) == case["score"], case
