"""Progress bars of one look: on a terminal, as a widget in a notebook, and none in a file."""

from __future__ import annotations

import sys

from tqdm.auto import tqdm
from tqdm.autonotebook import tqdm as plain_or_widget
from tqdm.std import tqdm as plain

__all__ = ["no_bar", "tqdm"]


def no_bar() -> bool:
    """Whether a bar could not be seen; for the argument `disable` of `tqdm`.

    A notebook shows widgets where ipywidgets is installed, which tqdm has found out.
    """
    return plain_or_widget is plain and not sys.stderr.isatty()
