"""`dsvl-tune benchmark` on small files of each layout, with the embedded model."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import refused

from dsvl_tune.cli.main import main
from dsvl_tune.evaluation.benchmarks import BENCHMARKS
from dsvl_tune.evaluation.benchmarks.results import write_vlmevalkit
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow

SAMPLES = Path(__file__).parents[1] / "golden" / "benchmark_samples"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["dsvl-tune", "benchmark", *arguments])
    main()


TSV = [name for name in BENCHMARKS if name != "cmmmu"]
OFFICIAL = {
    "chartqa": "chartqa_official",
    "cmmmu": "cmmmu_official",
    "docvqa": "docvqa_official",
    "mathvista": "mathvista_official",
    "mmmu": "mmmu_official",
    "mmvet": "mmvet_official",
    "ocrbench": "ocrbench_official",
    "pope": "pope_official",
    "scienceqa": "scienceqa_official",
    "seed_bench": "seed_official",
    "textvqa": "textvqa_official",
}
HUB = {
    "ai2d": "lmms_ai2d",
    "chartqa": "lmms_ChartQA",
    "docvqa": "lmms_DocVQA",
    "infovqa": "lmms_DocVQA",
    "mmbench": "lmms_MMBench",
    "mmbench_cn": "lmms_MMBench",
    "mmmu": "lmms_MMMU",
    "mmvet": "lmms_MMVet",
    "ocrbench": "lmms_OCRBench",
    "pope": "lmms_POPE",
    "scienceqa": "lmms_ScienceQA",
    "seed_bench": "lmms_SEED-Bench",
    "textvqa": "lmms_textvqa",
}


@pytest.mark.parametrize(
    "folders",
    [dict.fromkeys(TSV, "."), OFFICIAL, HUB, {"chartqa": "hfm4_ChartQA"}],
    ids=["tsv", "official", "hub", "hfm4"],
)
def test_every_layout_runs_and_says_its_rule(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folders: dict[str, str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for name, folder in folders.items():
        (Path("data") / name).symlink_to(SAMPLES / folder)
    call(monkeypatch, *folders, "--data", "data", "--out", "results", "--max_new_tokens", "4")
    printed = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    for name in folders:
        benchmark = BENCHMARKS[name]
        report = json.loads(Path(f"results/{name}.json").read_text(encoding="utf-8"))
        assert [one["rule"] for one in report["rules"]] == [one.name for one in benchmark.rules]
        for rule in benchmark.rules:
            assert any(line.startswith(f"{name} {rule.name} ") and "%" in line for line in lines)
        answers = Path(f"results/{name}_answers.jsonl").read_text(encoding="utf-8").splitlines()
        result = Path(f"results/embedded_{benchmark.dataset}.tsv")
        with result.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        texts = [json.loads(line)["answer"] for line in answers]
        assert [row["prediction"] for row in rows] == texts
    assert not list(Path("results").glob(".*"))
    submissions = {path.name.split("_submission")[0] for path in Path("results").glob("*_sub*")}
    assert submissions == {name for name in folders if BENCHMARKS[name].submission}


def test_submission_files_are_the_official_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["docvqa", "textvqa", "mmvet", "mmmu", "mathvista", "cmmmu"]
    Path("data").mkdir()
    for name in names:
        (Path("data") / name).symlink_to(SAMPLES / OFFICIAL[name])
    call(monkeypatch, *names, "--data", "data", "--out", "results", "--max_new_tokens", "4")

    def read(path: Path) -> Any:
        return json.loads(path.read_text(encoding="utf-8"))

    for name in ("docvqa", "textvqa"):
        (expected,) = read(SAMPLES / f"{name}_official/submission_example.json")[:1]
        found = read(Path(f"results/{name}_submission.json"))
        assert {key: type(value) for key, value in found[0].items()} == {
            key: type(value) for key, value in expected.items()
        }
    assert read(Path("results/mmvet_submission.json")).keys() == (
        read(SAMPLES / "mmvet_official/result_example.json").keys()
    )
    assert read(Path("results/mmmu_submission.json")).keys() == (
        read(SAMPLES / "mmmu_official/answer_dict_val.json").keys()
    )
    problems = read(SAMPLES / "mathvista_official/testmini.json")
    solved = read(Path("results/mathvista_submission.json"))
    assert solved.keys() == problems.keys()
    for key, problem in problems.items():
        named = set(solved[key]) - {"response"}
        assert {name: solved[key][name] for name in named} == {
            name: problem[name] for name in named
        }
    lines = Path("results/cmmmu_submission.jsonl").read_text(encoding="utf-8").splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"id", "type", "response"}] * 6
    assert "mmvet: no figure" in capsys.readouterr().out


def test_files_without_answers_give_a_submission_and_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = SAMPLES / "docvqa_official"
    hidden = json.loads((folder / "val_v1.0_withQT.json").read_text(encoding="utf-8"))
    for record in hidden["data"]:
        del record["answers"]
    Path("documents").symlink_to(folder / "documents")
    Path("test_v1.0.json").write_text(json.dumps(hidden), encoding="utf-8")
    call(monkeypatch, "docvqa", "--data", "test_v1.0.json", "--max_new_tokens", "4")
    assert "docvqa: no figure: these files have no answers" in capsys.readouterr().out
    report = json.loads(Path("benchmark_results/docvqa.json").read_text(encoding="utf-8"))
    assert report["rules"] == []
    assert Path("benchmark_results/docvqa_submission.json").is_file()


OWN = """
from dataclasses import replace
from dsvl_tune.evaluation.benchmarks.chartqa import CHARTQA
MINE = replace(CHARTQA, name="mine", prompt=lambda row: row.text("question").upper())
"""


def test_a_benchmark_of_ones_own_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_benchmark_of_a_test.py").write_text(OWN, encoding="utf-8")
    data = ["--data", str(SAMPLES), "--max_new_tokens", "4"]
    call(monkeypatch, "own_benchmark_of_a_test.MINE", *data)
    answers = Path("benchmark_results/mine_answers.jsonl").read_text(encoding="utf-8")
    assert "WHAT IS THE VALUE OF THE SECOND BAR?" in answers
    assert "mine " in capsys.readouterr().out
    error = refused(["benchmark", "own_benchmark_of_a_test.OTHER", *data], capsys, monkeypatch)
    assert "OTHER" in error and "Benchmark" in error


def read_json(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def answers(folder: str, name: str) -> list[dict[str, Any]]:
    lines = Path(f"{folder}/{name}_answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_shards_are_merged_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["pope", "--data", str(SAMPLES), "--max_new_tokens", "4"]
    call(monkeypatch, *command, "--out", "whole")
    capsys.readouterr()
    for shard in ("2/3", "1/3"):
        call(monkeypatch, *command, "--out", "shards", "--shard", shard)
    printed = capsys.readouterr().out
    assert "shard 1/3 is done" in printed and "of 14 rows" in printed
    kept = sorted(path.name for path in Path("shards").iterdir())
    assert kept == [f".pope_answers.jsonl.{number}.progress" for number in (1, 2)]
    call(monkeypatch, *command, "--out", "shards", "--batch_size", "3")  # answers what is left
    assert not list(Path("shards").glob(".*"))
    shards, whole = read_json("shards/pope.json"), read_json("whole/pope.json")
    assert shards.pop("answers").keys() == whole.pop("answers").keys()  # hashes: seconds differ
    assert shards == whole
    texts = {
        folder: [one["answer"] for one in answers(folder, "pope")] for folder in ("whole", "shards")
    }
    assert texts["shards"] == texts["whole"]


def test_what_is_finished_is_not_answered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["pope", "--data", str(SAMPLES), "--max_new_tokens", "4"]
    call(monkeypatch, *command)
    first = Path("benchmark_results/pope_answers.jsonl").read_bytes()  # with seconds
    report = read_json("benchmark_results/pope.json")
    call(monkeypatch, *command, "--blank", "image")
    assert Path("benchmark_results/pope_answers.jsonl").read_bytes() == first
    assert read_json("benchmark_results/pope.json")["rules"] == report["rules"]
    texts = [one["answer"] for one in answers("benchmark_results", "pope")]
    changed = first.replace(b'"answer": "', b'"answer": "x')
    Path("benchmark_results/pope_answers.jsonl").write_bytes(changed)  # no longer what was written
    call(monkeypatch, *command)
    assert [one["answer"] for one in answers("benchmark_results", "pope")] == texts
    call(monkeypatch, *command[:-1], "1")  # asked in another way
    assert {one["tokens"] for one in answers("benchmark_results", "pope")} == {1}


def test_likelihood_and_blanks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["mmbench", "mmmu", "mathvista", "--data", str(SAMPLES), "--scoring", "likelihood"]
    call(monkeypatch, *command, "--blank", "sam", "siglip", "--max_new_tokens", "4")
    printed = capsys.readouterr().out
    assert "whole images" in printed and "sam blanked" in printed and "siglip blanked" in printed
    report = read_json("benchmark_results/mmbench.json")
    assert [rule["rule"] for rule in report["rules"]] == ["likelihood"]
    assert set(report["blanked"]) == {"sam", "siglip"}
    (change,) = report["blanked"]["sam"]["changes"]
    (blanked,) = report["blanked"]["sam"]["rules"]
    difference = blanked["figures"]["choice"] - report["rules"][0]["figures"]["choice"]
    assert change["difference"] == pytest.approx(difference)
    whole = answers("benchmark_results", "mmbench")
    for one in whole:
        assert one["answer"] == max(one["likelihoods"], key=one["likelihoods"].__getitem__)
    for blank in ("sam", "siglip"):
        others = answers("benchmark_results", f"mmbench_blank_{blank}")
        assert [one["prompt"] for one in others] == [one["prompt"] for one in whole]
        assert [one["likelihoods"] for one in others] != [one["likelihoods"] for one in whole]
    for name in ("mmmu", "mathvista"):
        found = answers("benchmark_results", name)
        chosen = {one["index"] for one in found if "likelihoods" in one}
        assert 0 < len(chosen) < len(found)  # open questions are generated


def test_a_template_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.jinja").write_text(
        "{{ hint }}{{ question }}{% for letter, text in options.items() %} ({{ letter }})"
        " {{ text }}{% endfor %} One letter.",
        encoding="utf-8",
    )
    command = ["mmbench", "--data", str(SAMPLES), "--max_new_tokens", "4"]
    call(monkeypatch, *command, "--prompt_template", "short.jinja")
    prompts = [one["prompt"] for one in answers("benchmark_results", "mmbench")]
    shown = "What colour is the shape? (A) red (B) green (C) blue (D) yellow One letter."
    assert shown in prompts[0]
    for text, named in (
        ("{{ qestion }}", ["bad.jinja", "qestion", "question"]),
        ("{{ question ", ["bad.jinja, line 1"]),
        ("{{ question.__class__.__mro__ }}", ["bad.jinja", "unsafe"]),
    ):
        Path("bad.jinja").write_text(text, encoding="utf-8")
        error = refused(
            ["benchmark", *command, "--prompt_template", "bad.jinja"], capsys, monkeypatch
        )
        assert all(one in error for one in named), error


def test_grades_of_a_judge_are_summed_up_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    graded = {f"v1_{number}": {"score": [0.2 * number]} for number in range(6)}
    Path("graded.json").write_text(json.dumps(graded), encoding="utf-8")
    command = ["mmvet", "--data", str(SAMPLES), "--grades", "graded.json"]
    for _ in range(2):
        call(monkeypatch, *command)
    assert "50.0" in capsys.readouterr().out
    report = read_json("benchmark_results/mmvet_grades.json")
    assert report["overall"]["all"] == {"grade": pytest.approx(0.5), "questions": 6}
    Path("benchmark_results/mmvet_grades.json").write_bytes(b"\xff")
    assert "--out" in refused(["benchmark", *command], capsys, monkeypatch)
    error = refused(["benchmark", "pope", *command[1:]], capsys, monkeypatch)
    assert "--grades: only mmvet" in error


def test_results_never_replace_a_strangers_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("benchmark_results").mkdir()
    Path("benchmark_results/pope.json").write_text("mine", encoding="utf-8")
    error = refused(["benchmark", "pope", "--data", str(SAMPLES)], capsys, monkeypatch)
    assert "pope.json" in error and "was not written by this command" in error
    assert [path.name for path in Path("benchmark_results").iterdir()] == ["pope.json"]


def test_sheets_hold_texts_alone(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    row = BenchmarkRow("7", (), {"question": "=1+2", "answer": "None"}, "row 1")
    write_vlmevalkit(tmp_path / "m_POPE.tsv", [(row, "\x0b=A1")])
    sheet = openpyxl.load_workbook(tmp_path / "m_POPE.xlsx").active
    assert list(sheet.values) == [
        ("index", "question", "answer", "prediction"),
        ("7", "=1+2", "None", "=A1"),
    ]
    assert {cell.data_type for line in sheet.rows for cell in line} == {"s"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["mmbnch", "--data", "."], ["mmbnch", "'mmbench'"]),
        (["pope", "--data", "."], ["no file of pope", "POPE.tsv"]),
        (["pope", "--data", ".", "--batch_size", "0"], ["--batch_size"]),
        (["pope", "--data", ".", "--shard", "3/2"], ["--shard 3/2", "2/8"]),
        (["chartqa", "--data", ".", "--scoring", "likelihood"], ["chartqa", "no options"]),
        (["pope", "--data", str(SAMPLES), "--blank", "sma"], ["--blank 'sma'", "'sam'"]),
        (["pope", "--data", ".", "--out", "file"], ["--out file", "is a file"]),
        (["pope", "--data", ".", "--out", "file/new"], ["--out file/new", "is a file"]),
    ],
)
def test_bad_arguments(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    named: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    error = refused(["benchmark", *arguments], capsys, monkeypatch)
    assert all(text in error for text in named), error


def test_a_label_that_the_rule_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (SAMPLES / "POPE.tsv").read_text(encoding="utf-8")
    Path("POPE.tsv").write_text(text.replace("\tNo\t", "\tmaybe\t"), encoding="utf-8")
    error = refused(["benchmark", "pope", "--data", "."], capsys, monkeypatch)
    assert "POPE.tsv, row 2" in error and "maybe" in error
