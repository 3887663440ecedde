"""The part of a chat template that renders a message's content, the same in every family."""

from __future__ import annotations

MACRO = """\
{%- macro text(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- else -%}
    {%- for part in content -%}
      {%- if part['type'] == 'image' -%}{{- 'IMAGE_TOKEN' -}}\
{%- else -%}{{- part['text'] -}}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
"""


def content_macro(image_token: str) -> str:
    """A macro `text(content)`, for a plain string or content parts, with a token for each image.

    Args:
        image_token: without a quotation mark.
    """
    return MACRO.replace("IMAGE_TOKEN", image_token)
