"""One benchmark from its rows to its report: answered, scored, and written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dsvl_tune.core.storage.files import write_json_lines
from dsvl_tune.evaluation.answer_log import AnswerLog, file_stats
from dsvl_tune.evaluation.answers import Answer
from dsvl_tune.evaluation.benchmarks.answer import Asking, answer_benchmark
from dsvl_tune.evaluation.benchmarks.base import LIKELIHOOD, Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.finished import answers_record, finished_answers
from dsvl_tune.evaluation.benchmarks.layouts.open import OpenedBenchmark
from dsvl_tune.evaluation.benchmarks.results import answer_lines, write_results
from dsvl_tune.evaluation.benchmarks.scoring import main_changes, score_benchmark
from dsvl_tune.evaluation.benchmarks.shards import Shard
from dsvl_tune.evaluation.chat_model import ChatModel


@dataclass(frozen=True, kw_only=True)
class Contender:
    """The model that is asked.

    Attributes:
        name: of its checkpoint, as the user gave it.
        adapter: folder of the adapter on it.
        weights: folder of the checkpoint.
        model: loaded.
    """

    name: str
    adapter: Path | None
    weights: Path
    model: ChatModel

    def identity(self) -> dict[str, str | None]:
        """What reports say of it."""
        return {"model": self.name, "adapter": None if self.adapter is None else str(self.adapter)}


def run_benchmark(
    contender: Contender,
    benchmark: Benchmark,
    opened: OpenedBenchmark,
    out: Path,
    asking: Asking,
    blanks: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Answer, score and write a benchmark, with whole images and with parts of them blanked.

    Args:
        contender: that is asked.
        benchmark: the benchmark.
        opened: its rows.
        out: folder of the results.
        asking: how the rows are answered.
        blanks: what is blanked in turn, see `Family.blankable_inputs`.

    Returns:
        The report that is in NAME.json; None while answers of other shards are missing.
    """
    ways = [None, *blanks]
    logs = {
        way: _log(contender, benchmark, opened, out, replace(asking, blank=way)) for way in ways
    }
    given: dict[str | None, list[Answer]] = {}
    for way, log in logs.items():
        given[way] = finished_answers(out / f"{benchmark.name}.json", log)
        if not given[way]:
            own = replace(asking, blank=way)
            found = answer_benchmark(contender.model, benchmark, opened.rows, log, own)
            given[way] = [found[number] for number in sorted(found)]
    if asking.shard is not None:
        _say_done(benchmark, asking.shard, min(map(len, given.values())), len(opened.rows))
        return None
    for way, log in logs.items():
        write_json_lines(log.out, answer_lines(benchmark, opened.rows, given[way]))
    report = _report(contender, benchmark, opened, asking, given)
    report["answers"] = answers_record(list(logs.values()))
    write_results(out, benchmark, opened.rows, given[None], report)
    for log in logs.values():
        log.remove()
    return report


def _say_done(benchmark: Benchmark, shard: Shard, answered: int, rows: int) -> None:
    """Print how many rows are answered, by this shard and by those that ended before it began."""
    print(f"{benchmark.name}: shard {shard} is done; {answered:,} of {rows:,} rows are answered")


def scored_rules(benchmark: Benchmark, asking: Asking) -> tuple[Rule, ...]:
    """The rules that answers are scored by; chosen options need no reader, so one rule is left."""
    if asking.scoring == "generation":
        return benchmark.rules
    rule = benchmark.rules[0]
    figures = tuple(name for name in rule.figures if not name.endswith("_unread"))
    return (replace(rule, name=LIKELIHOOD, figures=figures, guess=None),)


def _report(
    contender: Contender,
    benchmark: Benchmark,
    opened: OpenedBenchmark,
    asking: Asking,
    given: Mapping[str | None, Sequence[Answer]],
) -> dict[str, Any]:
    """The content of NAME.json."""
    rules = scored_rules(benchmark, asking)
    texts = {
        way: {row.index: one.text for row, one in zip(opened.rows, answers, strict=True)}
        for way, answers in given.items()
    }
    reports = {
        way: score_benchmark(benchmark, opened.rows, of_way, rules) for way, of_way in texts.items()
    }
    report: dict[str, Any] = {
        "benchmark": benchmark.name,
        **contender.identity(),
        "files": [str(file) for file in opened.files],
        "layout": opened.layout.name,
        "scoring": asking.scoring,
        "rules": reports[None],
    }
    blanked = {way: rules for way, rules in reports.items() if way is not None}
    if blanked:
        report["blanked"] = {
            way: {
                "rules": of_way,
                "changes": main_changes(benchmark, opened.rows, texts[None], texts[way], rules),
            }
            for way, of_way in blanked.items()
        }
    return report


def _log(
    contender: Contender,
    benchmark: Benchmark,
    opened: OpenedBenchmark,
    out: Path,
    asking: Asking,
) -> AnswerLog:
    """Where answers are kept as they come; those that were given in another way are dropped."""
    weights = [contender.weights, contender.adapter]
    stats = [file_stats(path) for path in weights if path is not None]
    asked = [
        [row.index, benchmark.prompt(row), [image.name for image in row.images]]
        for row in opened.rows
    ]
    content = [contender.name, stats, asking.max_new_tokens, asking.scoring, asking.blank, asked]
    identity = hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
    blank = "" if asking.blank is None else f"_blank_{asking.blank}"
    rank = 0 if asking.shard is None else asking.shard.number
    return AnswerLog(out / f"{benchmark.name}{blank}_answers.jsonl", identity, rank)
