"""Fine-tune DeepSeek vision-language models on your own images, with Lightning.

The public API, from `dsvl_tune.api`:

- `fit`: fine-tune a `FinetuneModule` and write a run folder.
- `merge`: merge the result of a run into its base checkpoint.
- `load_model`: load a checkpoint and answer questions about images.
- `write_report`: write a page about a run, or about several side by side.

Data modules are in `dsvl_tune.datamodules`. Importing this package imports nothing heavy: the API
is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsvl_tune.core.package import ROOTS, VERSION

if TYPE_CHECKING:
    from dsvl_tune.api import ChatModel as ChatModel
    from dsvl_tune.api import FinetuneModule as FinetuneModule
    from dsvl_tune.api import MergedCheckpoint as MergedCheckpoint
    from dsvl_tune.api import PartPlan as PartPlan
    from dsvl_tune.api import Run as Run
    from dsvl_tune.api import UserError as UserError
    from dsvl_tune.api import fit as fit
    from dsvl_tune.api import load_model as load_model
    from dsvl_tune.api import merge as merge
    from dsvl_tune.api import write_report as write_report

__all__ = [
    "ChatModel",
    "FinetuneModule",
    "MergedCheckpoint",
    "PartPlan",
    "Run",
    "UserError",
    "fit",
    "load_model",
    "merge",
    "write_report",
]

__version__ = VERSION
__path__[:] = [str(root) for root in ROOTS]


if not TYPE_CHECKING:  # type checkers see the imports above

    def __getattr__(name: str) -> Any:
        """Import a name of the public API when it is first used."""
        if name in __all__:
            from dsvl_tune.core.machine import let_threads_sleep

            let_threads_sleep()  # which has an effect before torch is imported only
            from dsvl_tune import api

            return getattr(api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public API, also before it is imported."""
    return [*globals(), *__all__]
