"""The process in which `limits` runs templates and patterns of strangers: a script of its own.

It starts in a few hundredths of a second because it imports nothing of this package. Stdin has the
request and stdout gets the answer, both as JSON.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

if sys.platform != "win32":
    import resource

ERROR_CHARACTERS = 2_000
"""Longest message that is sent."""


def chat_environment() -> ImmutableSandboxedEnvironment:
    """What transformers gives chat templates (utils/chat_template_utils.py).

    Its own takes seconds to import. The tags {% generation %} and {% endgeneration %}, around what
    the assistant says, change nothing in the text.
    """
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = lambda value, ensure_ascii=False, **options: json.dumps(
        value, ensure_ascii=ensure_ascii, **options
    )
    return environment


def render(template: str, variables: dict[str, Any], most_characters: int) -> str:
    """The text of a chat template.

    Raises:
        ValueError: it is longer than it may be.
    """
    text = chat_environment().from_string(template).render(**variables)
    if len(text) > most_characters:
        raise ValueError(f"it renders more than {most_characters:,} characters")
    return text


def match(patterns: list[str], names: list[str]) -> list[int | None]:
    """For each name the index of the first pattern that fits the whole of it."""
    compiled = [re.compile(pattern) for pattern in patterns]
    return [
        next((index for index, one in enumerate(compiled) if one.fullmatch(name)), None)
        for name in names
    ]


def bound(cpu_seconds: int, memory_bytes: int) -> None:
    """Let the system bound this process, as far as it can."""
    if sys.platform == "win32":
        return
    wanted = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in wanted.items():
        hard = resource.getrlimit(kind)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS lacks some
            resource.setrlimit(kind, (soft, hard))


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin.buffer)
    sys.path[:] = request["path"]  # where jinja2 is
    bound(request["cpu_seconds"], request["memory_bytes"])
    functions: dict[str, Callable[..., Any]] = {"render": render, "match": match}
    try:
        answer = {"result": functions[request["function"]](*request["arguments"])}
    except MemoryError:  # which has no message
        answer = {"error": "it takes too much memory"}
    except Exception as error:  # any: the template can raise whatever it wants to
        answer = {"error": f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
