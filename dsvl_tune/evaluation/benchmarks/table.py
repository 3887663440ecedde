"""The table of all figures, next to those of DeepSeek-VL's paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsvl_tune.core.text_table import format_table
from dsvl_tune.evaluation.benchmarks.base import LIKELIHOOD, Benchmark
from dsvl_tune.evaluation.figures_table import NO_FIGURE, change_text, figure_text, interval_text
from dsvl_tune.evaluation.statistics import Change, Interval

HEADER = ("benchmark", "rule", "figure", "value", "95 % interval", "paper 1.3B", "paper 7B")


def results_table(benchmarks: Sequence[Benchmark], reports: Mapping[str, Any]) -> str:
    """A line for each figure of each rule; the first of a rule has its interval and the paper's.

    Args:
        benchmarks: in order.
        reports: of each, by name.
    """
    lines = [line for one in benchmarks for line in _lines(one, reports[one.name]["rules"])]
    return format_table(list(HEADER), lines)


def blanks_table(benchmarks: Sequence[Benchmark], reports: Mapping[str, Any]) -> str:
    """The main figure of each rule, with whole images and with parts of them blanked.

    Args:
        benchmarks: in order.
        reports: of each, by name, with `blanked`.
    """
    lines = []
    for benchmark in benchmarks:
        report = reports[benchmark.name]
        for number, rule in enumerate(report["rules"]):
            name = next(iter(rule["figures"]))
            cells = [_blanked_text(one, number, name) for one in report["blanked"].values()]
            whole = figure_text(rule["figures"][name], percent=True)
            lines.append([benchmark.name, rule["rule"], name, whole, *cells])
    blanks = list(reports[benchmarks[0].name]["blanked"])
    header = ["benchmark", "rule", "figure", "whole images", *(f"{one} blanked" for one in blanks)]
    return format_table(header, lines)


def _blanked_text(blanked: Mapping[str, Any], number: int, name: str) -> str:
    """A figure with its change: "61.3 % (-2.0 points, 95 % [-4.1, 0.2])"."""
    figure = figure_text(blanked["rules"][number]["figures"][name], percent=True)
    change = change_text(Change(**blanked["changes"][number]), percent=True)
    return f"{figure} ({change})"


def _lines(benchmark: Benchmark, rules: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The lines of one benchmark; figures of likelihood are not beside generated ones."""
    paper = [
        figure_text(figure / 100 if figure else None, percent=True)
        for figure in benchmark.paper or (0, 0)
    ]
    lines = []
    for rule in rules:
        interval = interval_text(Interval(*rule["interval"]), percent=True)
        others = [interval, *([NO_FIGURE] * 2 if rule["rule"] == LIKELIHOOD else paper)]
        for name, figure in rule["figures"].items():
            value = figure_text(figure, percent=True, digits=2)
            lines.append([benchmark.name, rule["rule"], name, value, *others])
            others = [NO_FIGURE] * 3
    return lines or [[benchmark.name, *[NO_FIGURE] * 4, *paper]]
