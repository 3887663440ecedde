"""What a model family is to the rest of the project.

`Family` is the protocol that each family of `families/` implements, `Processor` what it makes of a
checkpoint for the data side; the other files have what a family's answers are made of.
"""

from dsvl_tune.core.family.card_text import CardText
from dsvl_tune.core.family.family import Family, ImageCost, Shapes
from dsvl_tune.core.family.layouts import Layout, TensorGroup
from dsvl_tune.core.family.parts import (
    ModelPart,
    PartMode,
    PartPlan,
    Parts,
    Plan,
    part_of,
    prefix_pattern,
)
from dsvl_tune.core.family.processor import Processor
from dsvl_tune.core.family.prompt import RenderMode, Segment

__all__ = [
    "CardText",
    "Family",
    "ImageCost",
    "Layout",
    "ModelPart",
    "PartMode",
    "PartPlan",
    "Parts",
    "Plan",
    "Processor",
    "RenderMode",
    "Segment",
    "Shapes",
    "TensorGroup",
    "part_of",
    "prefix_pattern",
]
