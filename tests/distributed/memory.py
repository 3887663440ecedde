"""One process of a sharded run, for torchrun: loads its shard, trains, and writes its memory."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh

from dsvl_tune.core.types import Batch, Sample
from dsvl_tune.data.encoding.collate import collate
from dsvl_tune.families import open_checkpoint
from dsvl_tune.families.deepseek_vl.family import DEEPSEEK_VL
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.checkpoint.weights import Weights
from dsvl_tune.models.finetuning.adapters import apply_plan
from dsvl_tune.models.finetuning.plan import make_plan
from dsvl_tune.models.runtime.fsdp import adapter_initialization, fill, local, shard
from dsvl_tune.training.objectives.supervised import supervised_loss
from dsvl_tune.training.optim import make_optimizer


class PeakMemory(threading.Thread):
    """Peak of this process's own memory, polled every few milliseconds, without mapped files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.start()

    def run(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text()
            self.peak = max(self.peak, int(status.split("RssAnon:")[1].split()[0]) * 1024)
            time.sleep(0.005)


def text_batch(tokens: int = 64) -> Batch:
    """A row of text that is supervised whole."""
    ids, nothing = [token % 97 + 1 for token in range(tokens)], [0] * tokens
    return collate(
        [Sample(ids, ids, [1.0] * tokens, list(range(tokens)), nothing, nothing, [])], pad_id=0
    )


def train(model: Any, plan: Any) -> None:
    """Two steps, after which gradients and the optimizer's state have been there."""
    optimizer = make_optimizer(model, plan, 1e-5, (0.9, 0.95), 0.0)
    for _ in range(2):
        optimizer.zero_grad()
        loss_sum, weight_sum, _ = model.run(supervised_loss, text_batch())
        (loss_sum / weight_sum).backward()
        optimizer.step()


def assert_is_shard(parameter: Tensor, whole: Tensor) -> None:
    """What this process holds is its chunk, as torch cuts."""
    chunks = [
        *whole.chunk(distributed.get_world_size()),
        *[whole[:0]] * distributed.get_world_size(),
    ]
    assert torch.equal(local(parameter), chunks[distributed.get_rank()])


def main(folder: Path, out: Path, preset: Any) -> None:
    distributed.init_process_group("gloo")
    memory = PeakMemory()
    time.sleep(0.1)
    before = memory.peak
    model = create_model(
        open_checkpoint(folder),
        torch.bfloat16,
        "nf4" if preset == "qlora" else None,
        storage="empty",
    )
    plan = make_plan(DEEPSEEK_VL, preset, None)
    with adapter_initialization(model, {part for part, how in plan.items() if how.mode == "lora"}):
        apply_plan(model, plan)
    shard(model, init_device_mesh("cpu", (distributed.get_world_size(),)))
    weights = Weights(open_checkpoint(folder))
    fill(model, weights, torch.bfloat16)
    loaded = memory.peak - before
    if preset != "pretrain":
        for name, parameter in list(model.named_parameters())[::50]:
            if "lora_" not in name and parameter.dtype != torch.uint8:
                assert_is_shard(
                    parameter, weights.read(name.replace(".base_layer.", ".")).bfloat16()
                )
    else:
        train(model, plan)
    held = sum(local(parameter).nbytes for parameter in model.parameters())
    found = {"loaded": loaded, "peak": memory.peak - before, "parameters": held}
    (out / f"{distributed.get_world_size()}.{distributed.get_rank()}.json").write_text(
        json.dumps(found)
    )
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
