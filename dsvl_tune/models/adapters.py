"""Release 0.1's path of `dsvl_tune.models.finetuning.adapters`; for one release."""

import warnings

from dsvl_tune.models.finetuning.adapters import *  # noqa: F403

warnings.warn(
    "dsvl_tune.models.adapters is now dsvl_tune.models.finetuning.adapters; the old path stops "
    "working after release 0.2",
    FutureWarning,
    stacklevel=2,
)
