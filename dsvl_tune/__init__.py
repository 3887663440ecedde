"""dsvl-tune: fine-tune DeepSeek-VL with Lightning. Importing this package imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.2.0"

# `datamodules/` and `recipes/` lie at the top of the repository and are packed into the wheel below this package.
# In a checkout the root joins the package's search path, so that `dsvl_tune.datamodules` is the same import in both.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "datamodules").is_dir():
    __path__.append(str(_checkout))
