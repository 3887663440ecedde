"""Head and cross entropy in chunks, so that the logits of all supervised tokens never exist at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK = 512
"""Most tokens whose logits exist at once: 210 MB in float32 with the published vocabulary of 102,400."""


def head_loss(
    head: nn.Module, hidden: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the tokens' cross entropies, and each token's own.

    Equal to `F.cross_entropy(head(hidden).float(), targets, reduction="none")` and its dot product with the weights, in
    value and in every gradient, at the same number of operations. The weights are known in the forward pass, so the
    gradients are computed there, chunk by chunk, and scaled in the backward pass: nothing is computed twice.
    (torch's own `F.linear_cross_entropy` knows no weight per token with one pass, and no head with adapters.)

    A loss scale, as float16 needs, would come too late for these gradients: mixed precision is bfloat16's here.

    Args:
        head: linear, with or without adapters, frozen or trained.
        hidden: [N, D]; N may be 0.
        targets: [N] int64.
        weights: [N] float32.

    Returns:
        float32 scalar, and [N] float32 without a gradient.
    """
    if not torch.is_grad_enabled():
        parts = ((head(hidden[part]).float(), targets[part]) for part in chunks(len(hidden), CHUNK))
        losses = torch.cat(
            [F.cross_entropy(logits, right, reduction="none") for logits, right in parts]
        )
        return torch.dot(losses, weights), losses
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    loss_sum, losses = ChunkedHeadLoss.apply(head, targets, weights, hidden, *trained)
    return loss_sum, losses


def chunks(tokens: int, most: int) -> list[slice]:
    """All tokens, in as few parts of up to `most` as can be, of one size: a small rest would read the whole head."""
    parts = max(1, -(-tokens // most))
    size = -(-tokens // parts)
    return [slice(part * size, (part + 1) * size) for part in range(parts)]


def losses_and_gradient(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropies [N] float32, and the gradient of their weighted sum by the logits: weight * (softmax - one-hot).

    Worked in one float32 buffer of the logits' size, which is the logits themselves where they are float32; torch's
    `cross_entropy` takes two more.
    """
    scores, right = logits.float(), targets[:, None]
    scores -= scores.amax(1, keepdim=True)
    shifted = scores.gather(1, right)
    total = scores.exp_().sum(1, keepdim=True)
    scores *= weights[:, None] / total
    scores.scatter_add_(1, right, -weights[:, None])
    return (total.log() - shifted)[:, 0], scores.to(logits.dtype)


class ChunkedHeadLoss(torch.autograd.Function):
    """See `head_loss`; hidden and what the head trains are the differentiable inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        head: nn.Module,
        targets: Tensor,
        weights: Tensor,
        hidden: Tensor,
        *trained: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Loss and gradients, chunk by chunk."""
        by_hidden, losses = torch.empty_like(hidden), torch.empty_like(weights)
        by_trained: list[Tensor] = []
        # A chunk's gradient of the head is as large as the logits of D tokens, so fewer of them would save nothing.
        for part in chunks(len(hidden), max(CHUNK, hidden.shape[1]) if trained else CHUNK):
            with torch.enable_grad():
                chunk = hidden[part].detach().requires_grad_()
                logits = head(chunk)
            losses[part], by_logits = losses_and_gradient(
                logits.detach(), targets[part], weights[part]
            )
            gradients = torch.autograd.grad(logits, [chunk, *trained], by_logits)
            by_hidden[part] = gradients[0]
            # The first chunk's become the sum: one chunk alone needs no second copy of the head's gradient.
            added = zip(by_trained, gradients[1:], strict=True)
            by_trained = (
                [total.add_(more) for total, more in added] if by_trained else list(gradients[1:])
            )
        ctx.save_for_backward(by_hidden, *by_trained)
        ctx.mark_non_differentiable(losses)
        return torch.dot(losses, weights), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients times the upstream one, in place: a head's is as large as the head."""
        return None, None, None, *(gradient.mul_(upstream) for gradient in ctx.saved_tensors)
