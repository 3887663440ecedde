"""Progress bars of one look: on a terminal, as a widget in a notebook, and none in a file."""

from __future__ import annotations

import sys

from tqdm.auto import tqdm
from tqdm.notebook import tqdm as widget

__all__ = ["no_bar", "tqdm"]


def no_bar() -> bool:
    """Whether a bar could not be seen; for the argument `disable` of `tqdm`.

    A notebook shows widgets where ipywidgets is installed, which `tqdm.auto` has found out.
    """
    return not (issubclass(tqdm, widget) or sys.stderr.isatty())
