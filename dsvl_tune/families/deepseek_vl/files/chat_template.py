"""The chat template that is written with a checkpoint: DeepSeek-VL's prompt format for other tools.

The format is the `deepseek` template of deepseek_vl/utils/conversation.py. Unlike the template in
circulation it ends the last answer with the end token, takes plain strings, lets a system message
replace the default prompt, and marks what the assistant says, so that the assistant masks of other
trainers are right.
"""

from __future__ import annotations

import re

from dsvl_tune.families.content_macro import content_macro
from dsvl_tune.families.deepseek_vl.tokenizer import IMAGE_TOKEN

TEMPLATE = (
    content_macro(IMAGE_TOKEN)
    + """\
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
  {%- set system = text(messages[0]['content']) | trim -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set system = DEFAULT_SYSTEM -%}
  {%- set turns = messages -%}
{%- endif -%}
{%- if system -%}{{- system + '\\n\\n' -}}{%- endif -%}
{%- for turn in turns -%}
  {%- if turn['role'] == 'user' -%}
    {{- 'USER: ' + (text(turn['content']) | trim) + '\\n\\n' -}}
  {%- else -%}
    {{- 'ASSISTANT:' -}}
    {%- generation -%}{{- ' ' + (text(turn['content']) | trim) + eos_token -}}{%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""
)


def chat_template(default_system: str, roles: tuple[str, str] = ("User", "Assistant")) -> str:
    """The template of a checkpoint.

    Args:
        default_system: system prompt of conversations that bring none ("" for none).
        roles: what the prompt calls the user and the assistant.
    """
    quoted = default_system.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    user, assistant = roles
    values = {"DEFAULT_SYSTEM": f"'{quoted}'", "USER": user, "ASSISTANT": assistant}
    # In one pass: a system prompt may hold such a word itself.
    return re.sub("|".join(values), lambda match: values[match[0]], TEMPLATE)
