"""Benchmarks, one file each: their layouts, prompts, rules and submission files.

`BENCHMARKS` has those that the command line can name without a path; one of your own is a
`Benchmark` in any importable module.
"""

from __future__ import annotations

from dsvl_tune.evaluation.benchmarks.ai2d import AI2D
from dsvl_tune.evaluation.benchmarks.base import Benchmark, Rule
from dsvl_tune.evaluation.benchmarks.chartqa import CHARTQA
from dsvl_tune.evaluation.benchmarks.cmmmu import CMMMU
from dsvl_tune.evaluation.benchmarks.docvqa import DOCVQA, INFOVQA
from dsvl_tune.evaluation.benchmarks.mathvista import MATHVISTA
from dsvl_tune.evaluation.benchmarks.mmbench import MMBENCH, MMBENCH_CN
from dsvl_tune.evaluation.benchmarks.mmmu import MMMU
from dsvl_tune.evaluation.benchmarks.mmvet import MMVET
from dsvl_tune.evaluation.benchmarks.ocrbench import OCRBENCH
from dsvl_tune.evaluation.benchmarks.pope import POPE
from dsvl_tune.evaluation.benchmarks.scienceqa import SCIENCEQA
from dsvl_tune.evaluation.benchmarks.seed_bench import SEED_BENCH
from dsvl_tune.evaluation.benchmarks.textvqa import TEXTVQA

__all__ = ["BENCHMARKS", "Benchmark", "Rule"]

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        MMBENCH,
        MMBENCH_CN,
        SEED_BENCH,
        MMMU,
        CMMMU,
        MATHVISTA,
        MMVET,
        POPE,
        OCRBENCH,
        CHARTQA,
        DOCVQA,
        INFOVQA,
        TEXTVQA,
        SCIENCEQA,
        AI2D,
    )
}
"""Benchmark by name."""
