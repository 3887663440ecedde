"""Where the time of one dsvl-tune step goes: CPU seconds of each model part, then of the operators.

    python benchmarks/speed/profile_step.py MODEL DATA [--share-images]

MODEL and DATA as compare.py writes them (FOLDER/proportions, FOLDER/one). One step of batch 4 after
a warm-up step; hooks time the parts' forward passes, the backward pass is timed as a whole.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contender_ours import InFileOrder
from step_bench import ALPHA, RANK, draw_adapters
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from dsvl_tune.core.checkpoint import Checkpoint
from dsvl_tune.core.family import PartPlan
from dsvl_tune.core.types import Batch
from dsvl_tune.data.encoding.collate import normalize_images
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.finetuning.adapters import apply_plan
from dsvl_tune.models.finetuning.plan import fit_plan, make_plan
from dsvl_tune.training.objectives.supervised import supervised_loss

BATCH = 4


def timed_parts(model: Any) -> dict[str, float]:
    """CPU seconds of each model part's forward passes, filled by hooks."""
    inner = model.model
    parts = {
        "SigLIP": inner.vision_model,
        "SAM": getattr(inner, "high_res_vision_model", None),
        "aligner": inner.aligner,
        "decoder": inner.language_model,
        "head": model.lm_head,
    }
    spent: dict[str, float] = defaultdict(float)
    for name, module in parts.items():
        if module is not None:
            module.register_forward_pre_hook(
                lambda *_, name=name: spent.update({name: spent[name] - cpu()})
            )
            module.register_forward_hook(
                lambda *_, name=name: spent.update({name: spent[name] + cpu()})
            )
    return spent


def cpu() -> float:
    """CPU seconds of this process."""
    return time.process_time()


def read_batches(checkpoint: Checkpoint, file: Path, share_images: bool) -> Iterator[Batch]:
    """Batches of the file's rows in their order."""
    data = InFileOrder(
        str(file),
        message_trees=share_images,
        validation_rows=0,
        verify_images=False,
        checkpoint=str(checkpoint.folder),
        batch_size=BATCH,
    )
    data.setup("fit")
    return iter(data.train_dataloader())


def build(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model with adapters as step_bench.py draws them, in training mode."""
    model = create_model(checkpoint)
    parts = {"language_model": PartPlan("lora", rank=RANK, alpha=ALPHA)}
    plan = make_plan(DEEPSEEK_VL, "lora", parts)
    apply_plan(model, fit_plan(plan, model, set()))
    draw_adapters(model.train())
    return model


def main() -> None:
    """Profile the second step, and print."""
    checkpoint = open_checkpoint(sys.argv[1])
    file = Path(sys.argv[2]) / "charts.openai.jsonl"
    batches = read_batches(checkpoint, file, "--share-images" in sys.argv)
    model, processor = build(checkpoint), checkpoint.processor
    supervised_loss(model, normalize_images(next(batches), processor)).loss.backward()
    spent = timed_parts(model)
    start = cpu()
    batch = normalize_images(next(batches), processor)
    loaded = cpu()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        loss = supervised_loss(model, batch).loss
        forward = cpu()
        loss.backward()
    end = cpu()
    parts = {
        "loading": loaded - start,
        **spent,
        "rest of forward, loss": forward - loaded - sum(spent.values()),
        "backward": end - forward,
    }
    for name, seconds in parts.items():
        print(f"{name:22} {seconds:6.2f} s  {100 * seconds / (end - start):3.0f} %")
    print(f"tokens of the batch {tuple(batch.input_ids.shape)}")
    averages = profiler.key_averages()
    print(averages.table("self_cpu_time_total", row_limit=16, max_name_column_width=50))


if __name__ == "__main__":
    main()
