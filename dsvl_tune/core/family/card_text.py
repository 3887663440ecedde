"""What a family adds to model cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dsvl_tune.core.family.layouts import Layout


@dataclass(frozen=True)
class CardText:
    """What a family adds to the model card of a written checkpoint.

    Attributes:
        title: first words of the heading.
        license_front_matter: license keys of the Hugging Face hub.
        license: the section on the license, in Markdown.
        use: how each layout is loaded, in Markdown; FOLDER stands for the checkpoint's folder.
        pixels: how transformers' image processor differs from the one that training used.
        has_image_processor: whether transformers has one, which is then compared.
        tested: other software that exports of each layout were loaded in, in Markdown; a layout
            that is missing was loaded by dsvl-tune alone.
    """

    title: str
    license_front_matter: Mapping[str, str]
    license: str
    use: Mapping[Layout, str]
    pixels: str
    has_image_processor: bool = True
    tested: Mapping[Layout, str] = field(default_factory=dict)
