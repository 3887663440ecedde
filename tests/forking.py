"""Work in a forked process: everything that was imported is there at once."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable


def fork(work: Callable[[], object]) -> int:
    """The process id of a child that does some work and ends.

    Its exit code is 0, that of a SystemExit, or 1 after any other exception, whose traceback it
    prints. Nothing of the parent is cleaned up in it.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
