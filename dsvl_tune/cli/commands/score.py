"""`dsvl-tune score ANSWERS --metric NAME`: score stored answers, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsvl_tune.cli.parser import CommandParser, HelpFormatter
from dsvl_tune.core.class_path import import_class
from dsvl_tune.core.errors import UserError
from dsvl_tune.core.storage.files import write_json_lines
from dsvl_tune.core.storage.outputs import check_output_file

if TYPE_CHECKING:
    from dsvl_tune.evaluation.metrics import Metric
    from dsvl_tune.evaluation.statistics import Interval
    from dsvl_tune.evaluation.stored_answers import StoredAnswer

DESCRIPTION = """\
score: score stored answers by any metrics, without a model

  dsvl-tune score answers.jsonl --metric anls --metric relaxed_accuracy --out scored.jsonl

Each line of the file is a JSON object with `answer` (or `prediction`) and `references` (a list) or
`reference`, as `dsvl-tune predict` writes it. The figures are printed with 95 % bootstrap
intervals, over all answers and per `question_type` if the lines have one; a figure over several
types is their mean. Metrics may read further fields: `choice` the `options`, `ocrbench` the
`dataset_name`. A reference that a metric cannot read ends the command before anything is written.

metrics:
{metrics}
  or the class path of a Metric of your own, e.g. my_module.StartsWith"""


def main(arguments: list[str]) -> None:
    """Entry of the command."""
    from dsvl_tune.evaluation.metrics import METRICS

    purposes = [
        f"  {name:<25} {str(metric.__doc__).splitlines()[0].rstrip('.')}"
        for name, metric in METRICS.items()
    ]
    parser = CommandParser(
        prog="dsvl-tune score",
        description=DESCRIPTION.format(metrics="\n".join(purposes)),
        formatter_class=HelpFormatter,
    )
    parser.add_argument("answers", type=Path, help="file of answers, JSON lines")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        help="what is measured; may be repeated (default: the `metric` of each line, else chosen "
        "by what the references are)",
    )
    parser.add_argument(
        "--out",
        type=Path | None,
        default=None,
        help="file to write: the same lines, each with `scores` by name of the metric",
    )
    options = parser.parse_args(arguments)
    score(options.answers, options.metric, options.out)


def score(answers: Path, names: list[str], out: Path | None) -> None:
    """Score a file of answers; print the figures and write the scored lines.

    Args:
        answers: file of answers.
        names: of metrics.
        out: file of the scored lines; None writes none.

    Raises:
        UserError: an unknown metric, a line that is none of answers, or a bad output.
    """
    from dsvl_tune.evaluation.scoring import score_tables, set_figures, with_scores
    from dsvl_tune.evaluation.statistics import intervals
    from dsvl_tune.evaluation.stored_answers import read_answers

    metrics = _metrics(names)
    stored = read_answers(answers)
    if out is not None:
        is_own = partial(_holds_these_answers, stored=stored)
        check_output_file(out, "--out", is_own, inputs=[answers])
    metrics = metrics or _default_metrics(stored)
    own = [line.answer for line in stored]
    if names:
        own = [replace(answer, fields={**answer.fields, "metric": None}) for answer in own]
    tables = score_tables(own, metrics)
    if not tables:
        raise UserError(f"{answers}: no line has a reference. Expected at least one to score.")
    if out is not None:
        scored = zip(stored, with_scores(own, tables), strict=True)
        write_json_lines(
            out,
            [
                {**line.row, "scores": {**_earlier_scores(line), **answer.scores}}
                for line, answer in scored
            ],
        )
    _print_figures(set_figures(tables), intervals(tables), metrics, len(tables[0].answers))
    unscored = len(own) - len(tables[0].answers)
    if unscored:
        print(f"{unscored} of {len(own)} lines have no reference and are not scored")
    if out is not None:
        print(f"scored answers: {out}")


def _metrics(names: list[str]) -> tuple[Metric, ...]:
    """The metrics that are named.

    Raises:
        UserError: there is no such metric.
    """
    from dsvl_tune.evaluation.metrics import find_metrics

    return find_metrics([_own_metric(name) if "." in name else name for name in names], "--metric")


def _own_metric(path: str) -> Metric:
    """The metric of a class path.

    Raises:
        UserError: there is no such class, or it is no metric.
    """
    from dsvl_tune.evaluation.metrics import Metric

    return import_class(path, "--metric", Metric)()  # type: ignore[type-abstract]


def _default_metrics(stored: list[StoredAnswer]) -> tuple[Metric, ...]:
    """The metrics for what the references are; says which."""
    from dsvl_tune.evaluation.default_metrics import default_metrics
    from dsvl_tune.evaluation.metrics import find_metrics

    unnamed = [line.answer for line in stored if not line.answer.own_metrics]
    chosen = default_metrics([answer.references for answer in unnamed])
    if chosen.names:
        print(f"metrics: {chosen}; --metric NAME chooses others")
    return find_metrics(chosen.names)


def _earlier_scores(line: StoredAnswer) -> dict[str, float]:
    """The scores that a line has already."""
    scores = line.row.get("scores")
    return scores if isinstance(scores, dict) else {}


def _holds_these_answers(path: Path, stored: list[StoredAnswer]) -> bool:
    """Whether a file has these answers with their scores, so that replacing it loses nothing."""
    from dsvl_tune.evaluation.stored_answers import read_answers

    try:
        earlier = read_answers(path)
    except UserError:
        return False
    scored = all(isinstance(line.row.get("scores"), dict) for line in earlier)
    return scored and [_unscored(line) for line in earlier] == [_unscored(line) for line in stored]


def _unscored(line: StoredAnswer) -> dict[str, Any]:
    """A line without its scores."""
    return {key: value for key, value in line.row.items() if key != "scores"}


def _print_figures(
    figures: Mapping[str, float],
    intervals: Mapping[str, Interval],
    metrics: Sequence[Metric],
    questions: int,
) -> None:
    """Print the figures of a set, and that it is small if it is."""
    from dsvl_tune.evaluation.figures_table import figures_table, small_set_text

    print(figures_table(figures, intervals, metrics))
    if note := small_set_text(questions):
        print(note)
