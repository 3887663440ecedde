"""Thousands of damaged inputs: each is read right or ends in one UserError, and no file changes.

    python benchmarks/soak/fuzz.py --cases 2000
    python benchmarks/soak/fuzz.py tar rows --first 1234 --cases 1

Each fault prints its kind, number and traceback, and leaves its files; the last line is the
verdict. The exit code is 0 only if there was no fault. The kinds are those of `tests/fuzz`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests" / "fuzz"))
from frame import Kind, run_cases


def all_kinds() -> dict[str, Kind]:
    """Every kind of input by name."""
    from data_kinds import DATA_KINDS
    from run_kinds import RUN_KINDS
    from settings_kinds import SETTINGS_KINDS
    from shard_kinds import SHARD_KINDS
    from state_kinds import STATE_KINDS

    return {**DATA_KINDS, **SETTINGS_KINDS, **RUN_KINDS, **SHARD_KINDS, **STATE_KINDS}


def main() -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help="kinds to run (default: all)")
    parser.add_argument("--cases", type=int, default=2000, help="cases of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--folder", type=Path, default=None, help="folder for the files of faults")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fuzz_"))
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")  # before datasets is imported
    os.environ["HF_HUB_OFFLINE"] = "1"  # a damaged name is sought nowhere
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    kinds = all_kinds()
    faults = 0
    for name in options.kinds or kinds:
        start = time.perf_counter()
        numbers = range(options.first, options.first + options.cases)
        for fault in run_cases(name, kinds[name], numbers, folder):
            if fault is not None:
                faults += 1
                print(f"{name} {fault.number}: {fault.reason}", flush=True)
        seconds = time.perf_counter() - start
        print(f"{name}: {options.cases:,} cases in {seconds:.0f} s", flush=True)
    print(f"{faults:,} faults" + (f", their files are in {folder}" if faults else ""))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
