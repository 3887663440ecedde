"""Lines that a run prints while a progress bar may be open."""

from __future__ import annotations

import sys

from lightning.pytorch.utilities import rank_zero_only

from dsvl_tune.core.progress import tqdm


@rank_zero_only
def print_above_bars(text: str) -> None:
    """Print lines above the open progress bars, at once and on the first rank alone.

    Args:
        text: One line or several.
    """
    tqdm.write(text)
    sys.stdout.flush()
