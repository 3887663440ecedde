"""A 4-bit base whose packed weights are divided over two processes trains as it does in one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing

from dsvl_tune.models.adapters import apply_plan
from dsvl_tune.models.loading import load_model
from dsvl_tune.models.parts import PartPlan, fit_plan, make_plan
from dsvl_tune.models.sharding import is_sharded, shard

STEPS = 3


def build(folder: Path) -> Any:
    """Adapters on a 4-bit base beside a fully trained part, with gradient checkpointing."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    model = load_model(folder, quantization="nf4")
    apply_plan(model, fit_plan(make_plan("qlora", {"aligner": PartPlan("full")}), model, set()))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def train(model: Any) -> tuple[list[float], list[int]]:
    """Losses of some steps on one row with an image, and the greedy answer after them."""
    torch.manual_seed(0)
    ids = torch.cat([torch.full((1, 16), model.config.image_token_id), torch.randint(10, 400, (1, 9))], dim=1)
    batch = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 32, 32)}
    batch["high_res_pixel_values"] = torch.randn(1, 3, 64, 64)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(STEPS):
        loss = model(**batch, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses, model.run(ask, batch) if is_sharded(model) else ask(model, batch)


def ask(model: Any, batch: dict[str, Tensor]) -> list[int]:
    """Greedy answer."""
    answer: list[int] = model.generate(**batch, max_new_tokens=4, do_sample=False)[0].tolist()
    return answer


def shard_and_train(rank: int, folder: Path, meeting: Path) -> None:
    """One of two processes: both see the same row, so that the mean gradient is the row's own."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    model = build(folder)
    mesh = distributed.init_device_mesh("cpu", (2,))
    shard(model, mesh)
    packed = [p for p in model.parameters() if p.dtype == torch.uint8]
    share = {2 * p.to_local().numel() == p.numel() for p in packed}
    losses, answer = train(model)
    trained = {n: p.full_tensor().detach() for n, p in model.named_parameters() if p.requires_grad}
    if rank == 0:
        found = {"losses": losses, "answer": answer, "trained": trained, "packed": len(packed), "share": share}
        torch.save(found, meeting.with_name("found"))
    distributed.destroy_process_group()


def test_sharded_equals_unsharded(wide_hybrid_checkpoint: Path, tmp_path: Path) -> None:
    multiprocessing.spawn(shard_and_train, (wide_hybrid_checkpoint, tmp_path / "meeting"), nprocs=2)
    found = torch.load(tmp_path / "found", weights_only=True)
    assert found["packed"] == 14 and found["share"] == {True}
    model = build(wide_hybrid_checkpoint)
    losses, answer = train(model)
    assert losses[-1] < losses[0] - 0.1
    assert found["losses"] == losses and found["answer"] == answer
    alone: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert set(alone) == set(found["trained"])
    assert all(torch.equal(tensor, found["trained"][name]) for name, tensor in alone.items())
