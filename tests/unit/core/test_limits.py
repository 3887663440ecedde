"""Templates and patterns from outside: as in transformers and `re`, bounded in any thread."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from dsvl_tune.core import limits
from dsvl_tune.core.limits import ProgramFailed, first_fitting, render_template
from dsvl_tune.families.deepseek_vl.files.chat_template import chat_template
from dsvl_tune.families.deepseek_vl2.files.chat_template import TEMPLATE

MESSAGES = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Wé <b>?"}]},
    {"role": "assistant", "content": "Yes"},
]
VARIABLES: dict[str, Any] = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "messages": MESSAGES,
    "tools": None,
    "documents": None,
    "add_generation_prompt": True,
}
CONSTRUCTS = """
{% set ns = namespace(n=0) %}
    {% for message in messages %}
        {% if loop.index0 > 7 %}{% break %}{% endif %}
        {% set ns.n = ns.n + 1 %}
{{ message['role'] | upper }} {{ message | tojson }} {{ message.content | tojson(indent=2) }}
        {% generation %}
            {% set ns.n = ns.n + 1 %}said {{ loop.index }} {{ message.role }}
        {% endgeneration %}
    {% endfor %}
{{ ns.n }} {{ strftime_now('%%') }} {{ dict(a=1).items() | list }} {{ tools is none }}
{{- raise_exception('no') if ns.n < 1 }}
"""


@pytest.mark.parametrize(
    "template",
    [
        chat_template("Be\nkind: 'x'"),
        chat_template("", ("<|User|>", "<|A|>")),
        TEMPLATE,
        CONSTRUCTS,
    ],
)
def test_templates_render_as_in_transformers(template: str) -> None:
    rest = {key: value for key, value in VARIABLES.items() if key != "messages"}
    expected, _ = render_jinja_template([MESSAGES], chat_template=template, **rest)
    assert render_template(template, VARIABLES) == expected[0]


def test_patterns_fit_as_in_re() -> None:
    patterns = [r"(.*\.)?(q_proj)$", r"layers\.\d+\..*", "(?i)NORM"]
    names = ["layers.0.q_proj", "layers.0.k_proj", "norm", "xnorm", "", "q_proj\n"]
    expected = [
        next((index for index, one in enumerate(patterns) if re.fullmatch(one, name)), None)
        for name in names
    ]
    assert first_fitting(patterns, names) == expected


HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "memory": "{{ 'a' * 20000000000 }}",
    "doubling": "{% set n = namespace(s='ab') %}{% for i in range(60) %}"
    "{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "length": "{{ 'a' * 2000000 }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
}
SAID = {
    "loops": "more than 1 s",
    "memory": "too much memory",
    "doubling": "too much memory|more than 1 s",  # whichever a busy machine comes to first
    "length": "more than 1,000,000 characters",
    "recursion": "RecursionError",
    "classes": "SecurityError",
}


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CPU_SECONDS", 1)


@pytest.mark.usefixtures("one_second")
@pytest.mark.parametrize("name", HOSTILE)
def test_templates_are_bounded_in_any_thread(name: str) -> None:
    with ThreadPoolExecutor(1) as threads:
        rendered = threads.submit(render_template, HOSTILE[name], VARIABLES)
        with pytest.raises(ProgramFailed, match=SAID[name]):
            rendered.result()


@pytest.mark.usefixtures("one_second")
def test_patterns_are_bounded_in_any_thread() -> None:
    with ThreadPoolExecutor(1) as threads:
        matched = threads.submit(first_fitting, ["(a+)+b"], ["a" * 60])
        with pytest.raises(ProgramFailed, match="more than 1 s"):
            matched.result()


def test_a_process_that_cannot_start_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/no/such/python")
    with pytest.raises(ProgramFailed, match="no process could be started"):
        render_template("x", {})
