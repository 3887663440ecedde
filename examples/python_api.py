"""Fine-tune a model, merge the result and ask it about an image, from Python.

The model is the small one in the package and the charts are generated: nothing is downloaded.

    python examples/python_api.py              # some minutes on two CPU cores
    python examples/python_api.py --steps 20   # a short look
"""

from __future__ import annotations

import argparse
from pathlib import Path

import dsvl_tune
from dsvl_tune.datamodules import ChartsDataModule

CHART = Path(__file__).with_name("chart.png")
QUESTION = "What is the value of the red bar?"


def main() -> None:
    """Fine-tune, merge and ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200, help="optimizer steps")
    parser.add_argument("--run_dir", type=Path, default=Path("runs"), help="folder of all runs")
    options = parser.parse_args()

    # LoRA on two model parts; every other part stays frozen.
    parts = {
        "language_model": dsvl_tune.PartPlan("lora", rank=32),
        "aligner": dsvl_tune.PartPlan("lora", rank=32),
    }
    model = dsvl_tune.FinetuneModule("embedded", parts=parts, lr=2e-3, max_new_tokens=8)
    data = ChartsDataModule(checkpoint="embedded", test_charts=20, system_prompt="")

    # Prints the plan, checks it after the first step, and evaluates before and after training.
    # If it is stopped, the same call resumes it.
    run = dsvl_tune.fit(
        model, data, run_dir=options.run_dir, run_name="python_api", max_steps=options.steps
    )
    if not run.finished:
        return
    before, after = (scores["relaxed_accuracy"] for scores in (run.before, run.after))
    print(f"accuracy on held-out charts: {before:.1%} -> {after:.1%}")

    # A plain transformers checkpoint, verified by loading it again.
    merged = dsvl_tune.merge(run.folder)
    print(f"merged checkpoint: {merged.folder}")

    tuned = dsvl_tune.load_model(merged.folder)
    print(f"{QUESTION} {tuned.answer(QUESTION, CHART, system='')}")


if __name__ == "__main__":
    main()
