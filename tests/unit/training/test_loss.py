"""The loss against one conversation at a time through transformers' own forward and loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from reference import assert_as_near, exact_copy
from torch import Tensor
from transformers import PreTrainedModel

from dsvl_tune.core.family import Processor
from dsvl_tune.core.types import Conversation, ImageRef, Sample, Turn
from dsvl_tune.data.encoding.batches import make_batch
from dsvl_tune.data.encoding.collate import collate, normalize_images
from dsvl_tune.data.encoding.packing import merge_tree
from dsvl_tune.data.encoding.tokenize import encode
from dsvl_tune.families import open_checkpoint
from dsvl_tune.models.checkpoint.load import create_model
from dsvl_tune.models.runtime.attention_mask import decoder_attention
from dsvl_tune.training.objectives.supervised import supervised_loss


def picture(seed: int) -> ImageRef:
    torch.manual_seed(seed)
    pixels = torch.randint(0, 255, (40, 30 + seed, 3), dtype=torch.uint8).numpy()
    return ImageRef(Image.fromarray(pixels), f"picture {seed}")


def conversation(*parts: str | ImageRef, answer: str, weight: float = 1.0) -> Conversation:
    return Conversation((Turn("user", parts), Turn("assistant", (answer,), weight)), source="test")


@pytest.fixture(scope="module")
def rows() -> list[list[Conversation]]:
    """Three rows: a tree of two questions, two images and two questions, and text alone."""
    one, two, three = picture(1), picture(2), picture(3)
    long = Conversation(
        (
            Turn("user", (one, two, "Which is larger?")),
            Turn("assistant", ("The first.",), 0.5),
            Turn("user", ("And now?", three)),
            Turn("assistant", ("The third, by far.",)),
        ),
        source="long",
    )
    questions = [
        conversation(one, text, answer=answer)
        for text, answer in (("What?", "A"), ("How many?", "7, or 8"))
    ]
    return [
        questions,
        [long],
        [conversation("No picture. Name a color.", answer="Blue.", weight=2.0)],
    ]


def alone(model: PreTrainedModel, sample: Sample, processor: Processor) -> tuple[Tensor, float]:
    """Weighted loss sum and weight of one conversation, by the transformers class itself."""
    logits = logits_alone(model, sample, processor)
    labels, weights = torch.tensor(sample.labels), torch.tensor(sample.loss_weights)
    losses = torch.nn.functional.cross_entropy(
        logits[:-1], labels[1:], reduction="none", ignore_index=-100
    )
    return (losses * weights[1:].to(losses.dtype)).sum(), float(weights[1:].sum())


def logits_alone(model: PreTrainedModel, sample: Sample, processor: Processor) -> Tensor:
    """Logits of one conversation, [T, vocabulary], by the transformers class itself."""
    batch = normalize_images(collate([sample], processor.pad_id), processor)
    pixels = {
        name: tensor[batch.image_index].to(model.dtype)
        for name, tensor in batch.vision_inputs.items()
    }
    ids = torch.tensor([sample.input_ids])
    logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels).logits[0]
    return logits


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("pack_tokens", [None, 330, 1000])
def test_conversations_in_a_batch_equal_conversations_alone(
    checkpoint: Path, rows: list[list[Conversation]], pack_tokens: int | None
) -> None:
    """Unpacked, the text packed with the tree, and all in one sequence: the same gradients."""
    processor: Processor = open_checkpoint(checkpoint).processor
    model = create_model(open_checkpoint(checkpoint))
    batch = make_batch(rows, processor, None, "error", pack_tokens)
    batch = normalize_images(batch, processor)
    assert len(batch.input_ids) == {None: 3, 330: 2, 1000: 1}[pack_tokens]
    assert len(batch.vision_inputs["pixel_values"]) == 3  # four slots show three pictures
    sums = supervised_loss(model, batch)
    sums.loss.backward()
    together = gradients(model)

    expected_sums, reference = torch.zeros(2, 2), exact_copy(model)
    for sample in [encode(conversation, processor) for row in rows for conversation in row]:
        part, part_weight = alone(model, sample, processor)
        part.backward()
        alone(reference, sample, processor)[0].backward()
        expected_sums[int(bool(sample.images))] += torch.tensor([part.item(), part_weight])

    by_modality = torch.stack([sums.logged["loss_text"], sums.logged["loss_image"]])
    torch.testing.assert_close(by_modality, expected_sums, atol=1e-5, rtol=1e-5)
    assert sums.loss.item() == pytest.approx(expected_sums[:, 0].sum().item(), rel=1e-5)
    assert sums.weight.item() == pytest.approx(expected_sums[:, 1].sum().item(), rel=1e-6)
    assert_as_near(gradients(reference), gradients(model), together)


def test_questions_of_a_tree_do_not_see_each_other(
    hybrid_checkpoint: Path, rows: list[list[Conversation]]
) -> None:
    """The trap: with a causal mask, later branches would attend to the answers of earlier ones."""
    processor = open_checkpoint(hybrid_checkpoint).processor
    model = create_model(open_checkpoint(hybrid_checkpoint))
    first, second = (encode(c, processor) for c in rows[0])
    joined = collate([merge_tree([first, second])], processor.pad_id)
    joined = normalize_images(joined, processor)
    plain = supervised_loss(model, joined).loss.item()
    joined.branch_ids.clamp_(max=0)  # one branch: everything before is seen
    assert supervised_loss(model, joined).loss.item() != pytest.approx(plain, rel=1e-4)


def test_a_batch_without_trees_needs_no_mask(
    checkpoint: Path, rows: list[list[Conversation]]
) -> None:
    """No supervised token attends to padding on the right, so the kernel's causal path will do."""
    processor = open_checkpoint(checkpoint).processor
    model = create_model(open_checkpoint(checkpoint))
    batch = make_batch([row[:1] for row in rows], processor, None, "error")
    batch = normalize_images(batch, processor)
    assert (batch.branch_ids < 0).any()
    given = decoder_attention(model, batch.segment_ids, batch.branch_ids, batch.position_ids)
    assert given == {"attention_mask": None, "position_ids": None}
    found = []
    for _ in range(2):
        loss = supervised_loss(model, batch).loss
        loss.backward()
        found.append({"loss": loss.detach(), **gradients(model)})
        batch.segment_ids += 1  # the same batch with a mask, because segments count from 0
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("pack_tokens", [None, 1000])
def test_tokens_are_counted_as_one_conversation_at_a_time(
    checkpoint: Path, rows: list[list[Conversation]], pack_tokens: int | None
) -> None:
    """Perplexity and token accuracy: every supervised token counts once, whatever its weight."""
    processor = open_checkpoint(checkpoint).processor
    model = create_model(open_checkpoint(checkpoint)).eval()
    batch = make_batch(rows, processor, None, "error", pack_tokens)
    expected = torch.zeros(3)
    with torch.no_grad():
        sums = supervised_loss(model, normalize_images(batch, processor))
        for sample in [encode(conversation, processor) for row in rows for conversation in row]:
            labels = torch.tensor(sample.labels)[1:]
            scored = labels != -100
            plain = [float(label >= 0) for label in sample.labels]
            loss, count = alone(model, replace(sample, loss_weights=plain), processor)
            logits = logits_alone(model, sample, processor)[:-1][scored]
            correct = (logits.argmax(-1) == labels[scored]).sum()
            expected += torch.tensor([loss.item(), correct.item(), count])
    loss, correct, count = expected
    found = [*sums.logged["token_loss"], *sums.logged["token_accuracy"]]
    torch.testing.assert_close(torch.stack(found), torch.stack([loss, count, correct, count]))
