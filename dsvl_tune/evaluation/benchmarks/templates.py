"""A prompt of one's own for any benchmark: a Jinja template instead of VLMEvalKit's text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dsvl_tune.core.errors import UserError
from dsvl_tune.evaluation.benchmarks.base import Benchmark
from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow

VARIABLES = "question, hint, options (texts by letter), cells (every column), prompt (VLMEvalKit's)"


def with_template(benchmark: Benchmark, path: Path) -> Benchmark:
    """The benchmark, asked with the text of a template; images stay where they are.

    Args:
        benchmark: the benchmark.
        path: file of the template. It knows `question`, `hint` ("" without one), `options` (texts
            by letter), `cells` (every column by name) and `prompt` (the text that it replaces).

    Raises:
        UserError: the file cannot be read, or is no template.
    """
    return replace(benchmark, prompt=_render(_read(path), path, benchmark))


def _read(path: Path) -> Template:
    """The template of a file, which can neither change nor call what it is not given.

    Raises:
        UserError: the file cannot be read, or is no template.
    """
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    try:
        return environment.from_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompt_template {path}: could not be read ({error}).") from None
    except TemplateSyntaxError as error:
        raise UserError(
            f"--prompt_template {path}, line {error.lineno}: {error.message}. Expected a Jinja "
            "template."
        ) from None


def _render(template: Template, path: Path, benchmark: Benchmark) -> Callable[[BenchmarkRow], str]:
    """The function from a row to its prompt."""

    def prompt(row: BenchmarkRow) -> str:
        try:
            return template.render(
                question=row.cells.get("question", ""),
                hint=row.cells.get("hint", ""),
                options=row.options,
                cells=dict(row.cells),
                prompt=benchmark.prompt(row),
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError, OverflowError) as error:
            raise UserError(
                f"--prompt_template {path}: {error} (in {row.source}). It knows {VARIABLES}."
            ) from None

    return prompt
