"""DeepSeek-VL2's balance loss and gradients, against the reference implementation's."""

from __future__ import annotations

import pytest
import torch
from deepseek_vl2_cases import GOLDEN, cases, conversation, header

from dsvl_tune.core.errors import UserError
from dsvl_tune.data.encoding.collate import collate, normalize_images
from dsvl_tune.data.encoding.tokenize import encode
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.training.objectives.balanced import (
    BalancedLoss,
    balance_loss,
    recorded,
    sequences_of,
)
from dsvl_tune.training.objectives.supervised import supervised_loss

NAMES = {
    "image_newline": "image_newline",
    "view_seperator": "view_separator",
    "projector.": "model.projector.",
    "vision.blocks": "vision_tower.encoder.layers",
    "mlp.gate.weight": "mlp.gate.weight",
    "mlp.experts.": "mlp.experts.",
    "mlp.shared_experts.": "mlp.shared_experts.",
    "self_attn.": "language_model.layers",
    "embed_tokens": "embed_tokens",
    "lm_head": "lm_head",
}
"""Part of a name in the golden file -> part of the names here."""


@pytest.mark.parametrize("size", ["tiny", "small"])  # the reference refuses to train the base
def test_values_and_gradients(size: str) -> None:
    checkpoint = open_checkpoint(GOLDEN / size / "checkpoint")
    model, processor = create_model(checkpoint).train(), checkpoint.processor
    sample = encode(conversation(size, cases(size)["train_three_turns"]), processor)
    batch = normalize_images(collate([sample], processor.pad_id), processor)
    golden = header(size)["training"]
    for key, objective in {
        "without_balance_loss": supervised_loss,
        "with_balance_loss": BalancedLoss(0.001),
    }.items():
        model.zero_grad()
        loss, weight, logged = objective(model, batch)
        (loss / weight).backward()
        for part, norm in golden[key].items():
            gradients = [
                parameter.grad.flatten()
                for name, parameter in model.named_parameters()
                if NAMES[part] in name and (part != "self_attn." or "self_attn" in name)
                if parameter.grad is not None
            ]
            assert float(torch.cat(gradients).norm()) == pytest.approx(norm, rel=1e-3), part
    wanted = sum(golden["balance_loss_per_layer_over_alpha"])
    assert float(logged["loss_balance"][0] / weight) == pytest.approx(wanted, abs=2e-4)
    with recorded(processor.family.routers(model)) as outputs, torch.no_grad():
        supervised_loss(model, batch)
    belongs = sequences_of(batch.segment_ids)
    found = [float(balance_loss(s, c, belongs).mean()) for s, c, _ in outputs]
    assert found == pytest.approx(golden["balance_loss_per_layer_over_alpha"], abs=1e-4)


@pytest.mark.parametrize(
    "segment_ids",
    [[[0] * 6, [0] * 4 + [-1] * 2], [[0] * 6 + [1] * 4]],
    ids=["padded", "packed"],
)
def test_a_sequence_counts_alone(segment_ids: list[list[int]]) -> None:
    torch.manual_seed(3)
    scores = torch.rand(sum(map(len, segment_ids)), 8)
    chosen = scores.topk(3).indices
    alone = [
        balance_loss(scores[:6], chosen[:6], torch.ones(1, 6)),
        balance_loss(scores[6:10], chosen[6:10], torch.ones(1, 4)),
    ]
    together = balance_loss(scores, chosen, sequences_of(torch.tensor(segment_ids)))
    assert torch.allclose(together, torch.cat(alone))


def test_evenly_used_experts_cost_one() -> None:
    even = balance_loss(torch.ones(8, 8), torch.arange(8)[:, None], torch.ones(1, 8))
    assert float(even) == pytest.approx(1.0)


def test_a_model_without_experts_is_refused() -> None:
    checkpoint = open_checkpoint("embedded")
    with pytest.raises(UserError, match="has no router"):
        BalancedLoss()(create_model(checkpoint), None)  # type: ignore[arg-type]
