"""Head and cross entropy in chunks: the logits of all supervised tokens never exist at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK_TOKENS = 512
"""Tokens whose logits exist at once: 210 MB in float32 with the published vocabulary of 102,400."""


def head_loss(
    head: nn.Module,
    hidden: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the tokens' cross entropies, and each token's own.

    Equal to `F.cross_entropy(head(hidden).float(), targets, reduction="none")` and its dot product
    with the weights, in value and in every gradient, with the same number of operations. The
    weights are known in the forward pass, so the gradients are computed there, chunk by chunk, and
    only scaled in the backward pass: nothing is computed twice. torch's `F.linear_cross_entropy`
    has no weight per token in one pass, and no head with adapters.

    A loss scale, as float16 needs, would come too late for these gradients: mixed precision here
    is bfloat16.

    Args:
        head: linear, with or without adapters, frozen or trainable.
        hidden: [N, D] in the compute dtype; N may be 0.
        targets: [N] int64.
        weights: [N] float32.
        chunk_tokens: most tokens whose logits exist at once.

    Returns:
        The sum, a float32 scalar, and the cross entropies, [N] float32 without a gradient.
    """
    if not torch.is_grad_enabled():
        losses, _ = score_tokens(head, hidden, targets, chunk_tokens=chunk_tokens)
        return torch.dot(losses, weights), losses
    trainable = [parameter for parameter in head.parameters() if parameter.requires_grad]
    loss_sum, losses = _ChunkedHeadLoss.apply(
        head, targets, weights, chunk_tokens, hidden, *trainable
    )
    return loss_sum, losses


@torch.no_grad()
def score_tokens(
    head: nn.Module, hidden: Tensor, targets: Tensor, *, chunk_tokens: int = CHUNK_TOKENS
) -> tuple[Tensor, Tensor]:
    """Cross entropy of each token, and whether it is the most probable one.

    Args:
        head: as in `head_loss`.
        hidden: [N, D] in the compute dtype; N may be 0.
        targets: [N] int64.
        chunk_tokens: most tokens whose logits exist at once.

    Returns:
        [N] float32 and [N] bool.
    """
    losses = []
    correct = []
    for chunk in _chunks(len(hidden), chunk_tokens):
        logits = head(hidden[chunk]).float()
        losses.append(F.cross_entropy(logits, targets[chunk], reduction="none"))
        correct.append(logits.argmax(dim=-1) == targets[chunk])
    return torch.cat(losses), torch.cat(correct)


def _chunks(tokens: int, most: int) -> list[slice]:
    """All tokens in as few equal chunks as possible: a small last one would read the whole head."""
    count = max(1, -(-tokens // most))
    size = -(-tokens // count)
    return [slice(number * size, (number + 1) * size) for number in range(count)]


def _losses_and_gradient(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropies, and the gradient of their weighted sum: weight * (softmax - one-hot).

    Computed in one float32 buffer of the logits' size, which is the logits themselves where they
    are float32; torch's `cross_entropy` takes two more.

    Args:
        logits: [C, vocabulary]; overwritten.
        targets: [C] int64.
        weights: [C] float32.

    Returns:
        [C] float32, and the gradient by the logits in their shape and dtype.
    """
    scores = logits.float()
    target_column = targets[:, None]
    scores -= scores.amax(1, keepdim=True)
    target_scores = scores.gather(1, target_column)
    total = scores.exp_().sum(1, keepdim=True)
    scores *= weights[:, None] / total
    scores.scatter_add_(1, target_column, -weights[:, None])
    return (total.log() - target_scores)[:, 0], scores.to(logits.dtype)


class _ChunkedHeadLoss(torch.autograd.Function):
    """See `head_loss`; the hidden states and the head's trainable tensors are differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        head: nn.Module,
        targets: Tensor,
        weights: Tensor,
        chunk_tokens: int,
        hidden: Tensor,
        *trainable: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Loss and gradients, chunk by chunk.

        Args:
            ctx: of autograd.
            head: as in `head_loss`.
            targets: [N] int64.
            weights: [N] float32.
            chunk_tokens: rows of `hidden` at a time.
            hidden: [N, D] in the head's dtype.
            *trainable: the head's trainable tensors, of any shape.

        Returns:
            The weighted sum, a float32 scalar, and the losses [N] float32.
        """
        hidden_gradient = torch.empty_like(hidden)
        losses = torch.empty_like(weights)
        head_gradients: list[Tensor] = []
        # A chunk's gradient of the head is as large as the logits of D tokens, so smaller chunks
        # would save nothing.
        most = max(chunk_tokens, hidden.shape[1]) if trainable else chunk_tokens
        for chunk in _chunks(len(hidden), most):
            with torch.enable_grad():
                chunk_hidden = hidden[chunk].detach().requires_grad_()
                logits = head(chunk_hidden)
            losses[chunk], logits_gradient = _losses_and_gradient(
                logits.detach(), targets[chunk], weights[chunk]
            )
            gradients = torch.autograd.grad(logits, [chunk_hidden, *trainable], logits_gradient)
            hidden_gradient[chunk] = gradients[0]
            if head_gradients:
                for total, addend in zip(head_gradients, gradients[1:], strict=True):
                    total.add_(addend)
            else:
                # The first chunk's gradients become the sums: a single chunk needs no second copy.
                head_gradients = list(gradients[1:])
        ctx.save_for_backward(hidden_gradient, *head_gradients)
        ctx.mark_non_differentiable(losses)
        return torch.dot(losses, weights), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients times the upstream one, in place: a head's is as large as the head.

        Args:
            ctx: of autograd.
            upstream: float32 scalar.
            _: of the losses, which are not differentiable.

        Returns:
            Of `hidden` and `trainable`, in their shapes and dtypes; None for the others.
        """
        gradients = [gradient.mul_(upstream) for gradient in ctx.saved_tensors]
        return None, None, None, None, *gradients
