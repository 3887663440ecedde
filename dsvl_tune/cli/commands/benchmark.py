"""`dsvl-tune benchmark NAME... --model M --data DIR`: published benchmarks by their rules."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsvl_tune.cli.parser import CommandParser, HelpFormatter
from dsvl_tune.core.errors import UserError, unknown_name

if TYPE_CHECKING:
    from dsvl_tune.evaluation.benchmarks import Benchmark
    from dsvl_tune.evaluation.benchmarks.layouts.open import OpenedBenchmark
    from dsvl_tune.evaluation.chat_model import ChatModel

DESCRIPTION = """\
benchmark: answer published benchmarks, and score them by the rules that papers report

  dsvl-tune benchmark mmbench pope --model merged --data LMUData
  dsvl-tune benchmark mmvet --model embedded --adapter runs/NAME/adapter --data LMUData
  dsvl-tune benchmark chartqa --model merged --data lmms-lab/ChartQA

DATA has the files of a benchmark as published: VLMEvalKit's TSV (its LMUData), the official files,
or parquet as on the hub; each benchmark may be in a folder of its name. Questions are asked as
VLMEvalKit asks DeepSeek-VL: greedily, at most 512 tokens. Every figure is printed with its rule,
because rules differ by many points; figures of benchmarks that a judge model grades are not
invented. OUT gets, for each benchmark, NAME.json (figures, intervals, breakdown),
NAME_answers.jsonl, a file of results that VLMEvalKit's `--mode eval` scores, and the official
submission file if there is one. Stopped or killed, the same command resumes.

benchmarks:
{benchmarks}
  or the path of a Benchmark of your own, e.g. my_module.MINE"""


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    from dsvl_tune.evaluation.benchmarks import BENCHMARKS

    files = [f"  {one.name:<12} {_files(one)}" for one in BENCHMARKS.values()]
    parser = CommandParser(
        prog="dsvl-tune benchmark",
        description=DESCRIPTION.format(benchmarks="\n".join(files)),
        formatter_class=HelpFormatter,
    )
    parser.add_argument("names", nargs="+", type=str, help="benchmarks to run")
    parser.add_argument(
        "--data",
        type=str,
        required=True,
        help="folder of the files, a single file of another split, or a data set on the hub",
    )
    parser.add_argument(
        "--model", type=str, default="embedded", help="checkpoint: a folder, a hub name or embedded"
    )
    parser.add_argument(
        "--adapter", type=Path | None, default=None, help="folder adapter/ of a run on it"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark_results"), help="folder of the results"
    )
    parser.add_argument("--batch_size", type=int, default=16, help="questions at a time")
    parser.add_argument("--max_new_tokens", type=int, default=512, help="longest answer")
    options = parser.parse_args(arguments)
    if options.batch_size < 1 or options.max_new_tokens < 1:
        raise UserError("--batch_size and --max_new_tokens: expected at least 1.")
    _run([_benchmark(name) for name in dict.fromkeys(options.names)], options)


def _files(benchmark: Benchmark) -> str:
    """The files of a benchmark in a few words: the first pattern of each layout."""
    return ", ".join(dict.fromkeys(layout.files[0] for layout in benchmark.layouts))


def _benchmark(name: str) -> Benchmark:
    """The benchmark of a name or of an import path.

    Raises:
        UserError: there is none.
    """
    from dsvl_tune.evaluation.benchmarks import BENCHMARKS, Benchmark

    if "." not in name:
        if name not in BENCHMARKS:
            raise unknown_name("benchmark", name, BENCHMARKS)
        return BENCHMARKS[name]
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"benchmark {name}: {error}. Expected the path of a Benchmark, or a name."
        ) from error
    if not isinstance(found, Benchmark):
        raise UserError(f"benchmark {name}: is no Benchmark. Expected an object that is one.")
    return found


def _run(benchmarks: Sequence[Benchmark], options: Any) -> None:
    """Read every benchmark before the model is loaded, then answer and score each."""
    from dsvl_tune.evaluation.benchmarks.results import check_results_folder, has_openpyxl
    from dsvl_tune.evaluation.benchmarks.table import results_table
    from dsvl_tune.evaluation.chat_model import load_model

    opened = {one.name: _open(one, options.data) for one in benchmarks}
    for benchmark in benchmarks:
        check_results_folder(options.out, benchmark, opened[benchmark.name].files)
    model = load_model(options.model, adapter=options.adapter)
    options.out.mkdir(parents=True, exist_ok=True)
    reports = {
        benchmark.name: _answer_and_score(benchmark, opened[benchmark.name], model, options)
        for benchmark in benchmarks
    }
    print(results_table(benchmarks, reports))
    for benchmark in benchmarks:
        note = benchmark.note
        if not opened[benchmark.name].is_labelled:
            note = "no figure: these files have no answers; give the submission file to the server"
        if note:
            print(f"{benchmark.name}: {note}")
    if not has_openpyxl():
        print("VLMEvalKit's result files are TSV; with openpyxl installed, xlsx is written, too")
    print(f"results: {options.out}")


def _open(benchmark: Benchmark, data: str) -> OpenedBenchmark:
    """The rows of a benchmark; raises on a reference that a rule cannot read."""
    from dsvl_tune.evaluation.benchmarks.layouts.open import open_benchmark
    from dsvl_tune.evaluation.benchmarks.scoring import benchmark_answer
    from dsvl_tune.evaluation.scoring import score_tables

    opened = open_benchmark(benchmark, data)
    print(f"{benchmark.name}: {len(opened.rows):,} rows of {opened.layout.name}: {opened.files[0]}")
    answers = [benchmark_answer(benchmark, row, "") for row in opened.rows]
    for rule in benchmark.rules:
        score_tables(answers, [rule.metric])
    return opened


def _answer_and_score(
    benchmark: Benchmark, opened: OpenedBenchmark, model: ChatModel, options: Any
) -> dict[str, Any]:
    """Answer and score one benchmark and write its files; its report."""
    from dsvl_tune.evaluation.answer_log import AnswerLog
    from dsvl_tune.evaluation.benchmarks.answer import answer_benchmark
    from dsvl_tune.evaluation.benchmarks.results import write_results
    from dsvl_tune.evaluation.benchmarks.scoring import score_benchmark

    rows = opened.rows
    log = AnswerLog(
        options.out / f"{benchmark.name}_answers.jsonl", _identity(benchmark, opened, options)
    )
    answers = answer_benchmark(
        model,
        benchmark,
        rows,
        log,
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
    )
    texts = {row.index: answer.text for row, answer in zip(rows, answers, strict=True)}
    report = {
        "benchmark": benchmark.name,
        "model": options.model,
        "adapter": None if options.adapter is None else str(options.adapter),
        "files": [str(file) for file in opened.files],
        "layout": opened.layout.name,
        "rules": score_benchmark(benchmark, rows, texts),
    }
    write_results(options.out, benchmark, rows, answers, report)
    log.remove()
    return report


def _identity(benchmark: Benchmark, opened: OpenedBenchmark, options: Any) -> str:
    """A hash of what the answers depend on."""
    from dsvl_tune.evaluation.answer_log import file_stats
    from dsvl_tune.families import open_checkpoint

    weights = [open_checkpoint(options.model).folder, options.adapter]
    stats = [file_stats(path) for path in weights if path is not None]
    asked = [
        [row.index, benchmark.prompt(row), [image.name for image in row.images]]
        for row in opened.rows
    ]
    content = [options.model, stats, options.max_new_tokens, asked]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
