"""The chat template that is written with a checkpoint, in both layouts.

It renders the prompt as one string, with the `<image>` token once for each image. Other tools that
tokenize it get the ids of this project wherever a token does not span the end of the assistant's
colon and the beginning of an answer.
"""

from __future__ import annotations

from dsvl_tune.families.content_macro import content_macro
from dsvl_tune.families.deepseek_vl2.tokenizer import IMAGE_TOKEN

TEMPLATE = (
    content_macro(IMAGE_TOKEN)
    + """\
{{- bos_token -}}
{%- for turn in messages -%}
  {%- if turn['role'] == 'system' -%}
    {{- text(turn['content']) | trim -}}
  {%- elif turn['role'] == 'user' -%}
    {{- '<|User|>: ' + (text(turn['content']) | trim) + '\\n\\n<|Assistant|>:' -}}
  {%- else -%}
    {%- generation -%}{{- (text(turn['content']) | trim) + eos_token -}}{%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
"""
)
"""A question always opens its answer, so `add_generation_prompt` changes nothing."""
