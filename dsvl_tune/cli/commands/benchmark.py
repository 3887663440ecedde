"""`dsvl-tune benchmark NAME... --model M --data DIR`: published benchmarks by their rules."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsvl_tune.cli.parser import CommandParser, HelpFormatter
from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.core.files import atomic_write, write_json, write_json_lines
from dsvl_tune.core.text_table import format_table

if TYPE_CHECKING:
    from dsvl_tune.evaluation.benchmarks import Benchmark
    from dsvl_tune.evaluation.benchmarks.tsv import TsvRow
    from dsvl_tune.evaluation.chat_model import ChatModel

DESCRIPTION = """\
benchmark: answer published benchmarks, and score them by the rules that papers report

  dsvl-tune benchmark mmbench pope --model merged --data LMUData
  dsvl-tune benchmark mmvet --model embedded --adapter runs/NAME/adapter --data LMUData

DATA is a folder with VLMEvalKit's TSV files (its LMUData). Questions are asked as VLMEvalKit asks
DeepSeek-VL: greedily, at most 512 tokens. Every figure is printed with its rule, because rules
differ by many points; figures of benchmarks that a judge model grades are not invented. OUT gets,
for each benchmark, NAME.json (figures, intervals, breakdown), NAME_answers.jsonl, a TSV of results
that VLMEvalKit's `--mode eval` scores, and the official submission file if there is one. Stopped or
killed, the same command resumes.

benchmarks:
{benchmarks}"""


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    from dsvl_tune.evaluation.benchmarks import BENCHMARKS

    files = [f"  {one.name:<12} {one.file}" for one in BENCHMARKS.values()]
    parser = CommandParser(
        prog="dsvl-tune benchmark",
        description=DESCRIPTION.format(benchmarks="\n".join(files)),
        formatter_class=HelpFormatter,
    )
    parser.add_argument("names", nargs="+", type=str, help="benchmarks to run")
    parser.add_argument("--data", type=Path, required=True, help="folder of the TSV files")
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
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        raise unknown_name("benchmark", unknown[0], BENCHMARKS)
    if options.batch_size < 1 or options.max_new_tokens < 1:
        raise UserError("--batch_size and --max_new_tokens: expected at least 1.")
    benchmarks = [BENCHMARKS[name] for name in dict.fromkeys(options.names)]
    _run(benchmarks, options)


def _run(benchmarks: Sequence[Benchmark], options: Any) -> None:
    """Read every benchmark before the model is loaded, then answer and score each."""
    from dsvl_tune.evaluation.benchmarks.scoring import benchmark_answer
    from dsvl_tune.evaluation.benchmarks.tsv import read_tsv
    from dsvl_tune.evaluation.chat_model import load_model
    from dsvl_tune.evaluation.scoring import score_tables

    rows = {}
    for benchmark in benchmarks:
        columns = ("question", "answer", *benchmark.breakdown)
        rows[benchmark.name] = read_tsv(options.data / benchmark.file, columns)
        answers = [benchmark_answer(benchmark, row, "") for row in rows[benchmark.name]]
        for rule in benchmark.rules:
            score_tables(answers, [rule.metric])  # raises on a reference that it cannot read
    options.out.mkdir(parents=True, exist_ok=True)
    model = load_model(options.model, adapter=options.adapter)
    lines = []
    for benchmark in benchmarks:
        lines += _run_one(benchmark, rows[benchmark.name], model, options)
    header = ["benchmark", "rule", "figure", "value", "95 % interval", "paper 1.3B", "paper 7B"]
    print(format_table(header, lines))
    for benchmark in benchmarks:
        if benchmark.note:
            print(f"{benchmark.name}: {benchmark.note}")
    print(f"results: {options.out}")


def _run_one(
    benchmark: Benchmark, rows: Sequence[TsvRow], model: ChatModel, options: Any
) -> list[list[str]]:
    """Answer and score one benchmark; its lines of the table."""
    from dsvl_tune.evaluation.answer_log import AnswerLog
    from dsvl_tune.evaluation.benchmarks.answer import answer_benchmark
    from dsvl_tune.evaluation.benchmarks.scoring import score_benchmark
    from dsvl_tune.evaluation.figures_table import figure_text, interval_text
    from dsvl_tune.evaluation.statistics import Interval

    asked = [[row.index, benchmark.prompt(row), [one.name for one in row.images]] for row in rows]
    content = [options.model, str(options.adapter), options.max_new_tokens, asked]
    identity = hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
    log = AnswerLog(options.out / f"{benchmark.name}_answers.jsonl", identity)
    answers = answer_benchmark(
        model,
        benchmark,
        rows,
        log,
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
    )
    texts = {row.index: answer.text for row, answer in zip(rows, answers, strict=True)}
    reports = score_benchmark(benchmark, rows, texts)
    report = {"benchmark": benchmark.name, "model": options.model, "rules": reports}
    write_json_lines(
        log.out,
        [
            {"index": row.index, **answer.to_json(), "references": list(benchmark.references(row))}
            for row, answer in zip(rows, answers, strict=True)
        ],
    )
    _write_results(benchmark, rows, texts, options)
    write_json(options.out / f"{benchmark.name}.json", report)
    log.remove()
    paper = [
        figure_text(one / 100 if one else None, percent=True) for one in benchmark.paper or (0, 0)
    ]
    lines = []
    for of_rule in reports:
        for number, (name, value) in enumerate(of_rule["figures"].items()):
            interval = Interval(*of_rule["interval"]) if number == 0 else None
            lines.append(
                [
                    benchmark.name,
                    of_rule["rule"],
                    name,
                    figure_text(value, percent=True, digits=2),
                    interval_text(interval, percent=True),
                    *(paper if number == 0 else ["-", "-"]),
                ]
            )
    return lines or [[benchmark.name, "-", "-", "-", "-", *paper]]


def _write_results(
    benchmark: Benchmark, rows: Sequence[TsvRow], texts: dict[str, str], options: Any
) -> None:
    """Write the results as VLMEvalKit names and reads them, and the official submission file."""
    model = Path(options.model).name
    dataset = Path(benchmark.file).stem
    columns = list(dict.fromkeys(column for row in rows for column in row.cells))

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(["index", *columns, "prediction"])
            for row in rows:
                cells = [row.cells.get(column, "") for column in columns]
                writer.writerow([row.index, *cells, texts[row.index]])

    atomic_write(options.out / f"{model}_{dataset}.tsv", write)
    if benchmark.submission is not None:
        content = benchmark.submission(texts)
        write_json(options.out / f"{benchmark.name}_submission.json", content)
