"""Release 0.1's path of `dsvl_tune.core.types` and `dsvl_tune.core.errors`; for one release."""

import warnings

from dsvl_tune.core.errors import UserError as UserError
from dsvl_tune.core.types import *  # noqa: F403

warnings.warn(
    "dsvl_tune.schema is now dsvl_tune.core.types and dsvl_tune.core.errors; the old path stops "
    "working after release 0.2",
    FutureWarning,
    stacklevel=2,
)
