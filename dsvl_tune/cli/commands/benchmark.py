"""`dsvl-tune benchmark NAME... --model M --data DIR`: published benchmarks by their rules."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsvl_tune.cli.parser import CommandParser, HelpFormatter
from dsvl_tune.core.errors import UserError, unknown_name
from dsvl_tune.core.storage.outputs import check_shared_folder

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from dsvl_tune.evaluation.benchmarks import Benchmark
    from dsvl_tune.evaluation.benchmarks.layouts.open import OpenedBenchmark
    from dsvl_tune.evaluation.benchmarks.run import Contender

GRADES_REPORT = "mmvet_grades.json"
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
--text_tasks evaluates language ability by lm-eval; its figures are in OUT/text_tasks.json.

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
    _add_model_options(parser)
    _add_asking_options(parser)
    _add_other_options(parser)
    options = parser.parse_args(arguments)
    _check(options)
    if options.grades is not None:
        _sum_up(options)
        return
    _run([_benchmark(name, options) for name in dict.fromkeys(options.names)], options)


def _add_model_options(parser: CommandParser) -> None:
    """Add what is run on what, and where results go."""
    parser.add_argument("names", nargs="*", type=str, help="benchmarks to run")
    parser.add_argument(
        "--data",
        type=str | None,
        default=None,
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


def _add_asking_options(parser: CommandParser) -> None:
    """Add how questions are asked."""
    parser.add_argument(
        "--scoring",
        choices=["generation", "likelihood"],
        default="generation",
        help="generate answers and read them, or choose the most likely option",
    )
    parser.add_argument(
        "--prompt_template",
        type=Path | None,
        default=None,
        help="Jinja file with the text of the prompt instead of VLMEvalKit's",
    )
    parser.add_argument(
        "--blank",
        nargs="*",
        type=str,
        default=[],
        help="answer also with a blank image (image), or without what one vision tower of a model "
        "with several sees (its name)",
    )
    parser.add_argument(
        "--shard",
        type=str | None,
        default=None,
        help="answer a share only, e.g. 2/8; the same command without it merges and scores",
    )


def _add_other_options(parser: CommandParser) -> None:
    """Add what lm-eval evaluates, and what a judge model graded."""
    parser.add_argument(
        "--text_tasks",
        nargs="*",
        type=str,
        default=[],
        help="tasks of text alone to evaluate by lm-eval",
    )
    parser.add_argument(
        "--task_folder",
        type=Path | None,
        default=None,
        help="folder of your own tasks for lm-eval, in place of those that it comes with",
    )
    parser.add_argument(
        "--grades",
        type=Path | None,
        default=None,
        help="for mmvet: a judge's grades of the answers, to be summed up without a model",
    )


def _check(options: Any) -> None:
    """Raise on options that contradict one another."""
    if options.batch_size < 1 or options.max_new_tokens < 1:
        raise UserError("--batch_size and --max_new_tokens: expected at least 1.")
    if not options.names and not options.text_tasks:
        raise UserError("benchmark: nothing to run. Name a benchmark, or tasks by --text_tasks.")
    if options.names and options.data is None:
        raise UserError("--data: expected the folder of the benchmarks' files.")
    if options.grades is not None and options.names != ["mmvet"]:
        raise UserError("--grades: only mmvet is graded by a judge. Name it alone.")
    if options.text_tasks and options.shard is not None:
        raise UserError("--shard: text tasks have no shards. Evaluate them in a command alone.")
    check_shared_folder(options.out, "--out")


def _files(benchmark: Benchmark) -> str:
    """The files of a benchmark in a few words: the first pattern of each layout."""
    return ", ".join(dict.fromkeys(layout.files[0] for layout in benchmark.layouts))


def _benchmark(name: str, options: Any) -> Benchmark:
    """The benchmark of a name or of an import path, asked as the options say.

    Raises:
        UserError: there is none, its rows have no options to choose from, or the template is none.
    """
    from dsvl_tune.evaluation.benchmarks import BENCHMARKS
    from dsvl_tune.evaluation.benchmarks.templates import with_template

    if "." in name:
        benchmark = _own_benchmark(name)
    elif name in BENCHMARKS:
        benchmark = BENCHMARKS[name]
    else:
        raise unknown_name("benchmark", name, BENCHMARKS)
    if options.scoring == "likelihood" and benchmark.candidates is None:
        raise UserError(
            f"--scoring likelihood: the questions of {name} have no options to choose from. "
            "Expected a benchmark of choices, or --scoring generation."
        )
    template = options.prompt_template
    return benchmark if template is None else with_template(benchmark, template)


def _own_benchmark(path: str) -> Benchmark:
    """The benchmark of an import path.

    Raises:
        UserError: there is no such object, or it is no benchmark.
    """
    from dsvl_tune.evaluation.benchmarks import Benchmark

    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"benchmark {path}: {error}. Expected the path of a Benchmark, or a name."
        ) from error
    if not isinstance(found, Benchmark):
        raise UserError(f"benchmark {path}: is no Benchmark. Expected an object that is one.")
    return found


def _run(benchmarks: Sequence[Benchmark], options: Any) -> None:
    """Read every benchmark before the model is loaded, then answer and score each."""
    from dsvl_tune.evaluation.benchmarks.answer import Asking
    from dsvl_tune.evaluation.benchmarks.results import check_results_folder
    from dsvl_tune.evaluation.benchmarks.run import run_benchmark
    from dsvl_tune.evaluation.benchmarks.shards import parse_shard

    asking = Asking(
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
        scoring=options.scoring,
        shard=None if options.shard is None else parse_shard(options.shard),
    )
    opened = {one.name: _open(one, options.data) for one in benchmarks}
    for benchmark in benchmarks:
        check_results_folder(options.out, benchmark, opened[benchmark.name].files)
    tasks = _text_tasks(options)
    contender = _contender(options)
    options.out.mkdir(parents=True, exist_ok=True)
    reports = {
        one.name: run_benchmark(
            contender, one, opened[one.name], options.out, asking, options.blank
        )
        for one in benchmarks
    }
    if asking.shard is None:
        _print(benchmarks, opened, reports, options)
        _evaluate_text(contender, tasks, options)
        print(f"results: {options.out}")
    else:
        print("when all shards are done, the same command without --shard scores their answers")


def _open(benchmark: Benchmark, data: str) -> OpenedBenchmark:
    """The rows of a benchmark.

    Raises:
        UserError: a row cannot be asked, or a rule cannot read its reference.
    """
    from dsvl_tune.evaluation.benchmarks.layouts.open import open_benchmark
    from dsvl_tune.evaluation.benchmarks.scoring import check_rows

    opened = open_benchmark(benchmark, data)
    print(f"{benchmark.name}: {len(opened.rows):,} rows of {opened.layout.name}: {opened.files[0]}")
    check_rows(benchmark, opened.rows)
    return opened


def _contender(options: Any) -> Contender:
    """The model that is asked.

    Raises:
        UserError: there is no such checkpoint, or it has no such vision tower to blank.
    """
    from dsvl_tune.evaluation.benchmarks.run import Contender
    from dsvl_tune.evaluation.blanking import check_blanks
    from dsvl_tune.evaluation.chat_model import load_model
    from dsvl_tune.families import open_checkpoint

    checkpoint = open_checkpoint(options.model)
    check_blanks(options.blank, checkpoint.processor, "--blank")
    return Contender(
        name=options.model,
        adapter=options.adapter,
        weights=checkpoint.folder,
        model=load_model(options.model, adapter=options.adapter),
    )


def _print(
    benchmarks: Sequence[Benchmark],
    opened: Mapping[str, OpenedBenchmark],
    reports: Mapping[str, Any],
    options: Any,
) -> None:
    """Print the tables and what a reader must know of the figures."""
    from dsvl_tune.evaluation.benchmarks.results import has_openpyxl
    from dsvl_tune.evaluation.benchmarks.table import blanks_table, results_table

    if not benchmarks:
        return
    print(results_table(benchmarks, reports))
    if options.blank:
        print(blanks_table(benchmarks, reports))
    for benchmark in benchmarks:
        note = benchmark.note
        if not opened[benchmark.name].is_labelled:
            note = "no figure: these files have no answers; give the submission file to the server"
        if note:
            print(f"{benchmark.name}: {note}")
    if not has_openpyxl():
        print("VLMEvalKit's result files are TSV; with openpyxl installed, xlsx is written, too")


def _sum_up(options: Any) -> None:
    """Print and write the figures of MM-Vet from a judge's grades."""
    from dsvl_tune.core.storage.files import write_json
    from dsvl_tune.core.storage.outputs import check_output_file
    from dsvl_tune.evaluation.benchmarks import grades

    opened = _open(_benchmark("mmvet", options), options.data)
    given = grades.read_grades(options.grades)
    report = grades.grade_report(opened.rows, given, str(options.grades))
    options.out.mkdir(parents=True, exist_ok=True)
    out = options.out / GRADES_REPORT
    check_output_file(out, "--out", grades.is_grade_report, [options.grades])
    print(grades.grades_table(report))
    write_json(out, report)
    print(f"results: {out}")


def _text_tasks(options: Any) -> TaskManager | None:
    """lm-eval's tasks, read before the model is loaded; None if none is named."""
    from dsvl_tune.evaluation.text_task_report import TEXT_REPORT, check_report
    from dsvl_tune.evaluation.text_tasks import find_tasks

    if not options.text_tasks:
        return None
    check_report(options.out / TEXT_REPORT)
    return find_tasks(options.text_tasks, options.task_folder)


def _evaluate_text(contender: Contender, tasks: TaskManager | None, options: Any) -> None:
    """Evaluate the text tasks, print their figures and write them."""
    from dsvl_tune.evaluation.text_task_report import write_report
    from dsvl_tune.evaluation.text_tasks import run_text_tasks, text_tasks_table

    if tasks is None:
        return
    found = run_text_tasks(
        contender.model, options.text_tasks, tasks, batch_size=options.batch_size
    )
    print(text_tasks_table(found))
    write_report(options.out, contender.identity(), _text_command(options), found)


def _text_command(options: Any) -> list[str]:
    """The command that evaluates the text tasks alone, in the same way."""
    given = {
        "--task_folder": options.task_folder,
        "--model": options.model,
        "--adapter": options.adapter,
        "--batch_size": options.batch_size,
        "--out": options.out,
    }
    command = ["dsvl-tune", "benchmark", "--text_tasks", *options.text_tasks]
    for name, value in given.items():
        command += [] if value is None else [name, str(value)]
    return command
