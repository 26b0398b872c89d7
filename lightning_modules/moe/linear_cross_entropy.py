"""The output layer and its cross-entropy in one, chunk by chunk, so that logits [T, V] never lie in memory at once.

Shape legend: T tokens, H hidden units, V words, C tokens of a chunk.
"""

from typing import Any

import torch
from torch import Tensor

# What stays in a CPU's cache; and logits enough to fill a GPU, 256 MiB of them.
CPU_CHUNK, LOGITS = 256, 2**26
# float16 ends at 6e-8 and at 65504. What is taken in it is the gradient of a sum of losses, not of their mean, LIFT times as
# large; and what a chunk sums over its tokens stays below LARGEST.
LIFT, LARGEST = 64, 2**15


class _LinearCrossEntropy(torch.autograd.Function):
    """Takes the gradient while a chunk's logits are at hand: one pass over them instead of four."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TH: Tensor, weight_VH: Tensor, targets_T: Tensor, scale_T: Tensor, chunk: int
    ) -> Tensor:
        wanted, dtypes = ctx.needs_input_grad, (hidden_TH.dtype, weight_VH.dtype)
        product_dtype = matmul_dtype(weight_VH)
        # Autocast would cast the whole weight again for every chunk.
        hidden_TH, cast_VH = hidden_TH.to(product_dtype), weight_VH.to(product_dtype)
        grad_TH = torch.empty_like(hidden_TH) if wanted[0] else None
        # Over thousands of chunks a sum in half precision loses what is added last.
        wide = torch.promote_types(weight_VH.dtype, torch.float32)
        grad_VH = torch.zeros_like(weight_VH, dtype=wide) if wanted[1] else None
        loss = torch.zeros((), dtype=torch.promote_types(hidden_TH.dtype, torch.float32), device=hidden_TH.device)
        shrink = _shrink(hidden_TH, chunk) if product_dtype == torch.float16 else None
        for start in range(0, len(targets_T), chunk):
            part = slice(start, start + chunk)
            hidden_CH, target_C1 = hidden_TH[part], targets_T[part, None]
            logits_CV = torch.nn.functional.linear(hidden_CH, cast_VH).to(loss.dtype)
            logits_CV -= logits_CV.logsumexp(1, keepdim=True)
            loss -= (logits_CV.gather(1, target_C1)[:, 0] * scale_T[part]).sum()
            if grad_TH is None and grad_VH is None:
                continue
            grad_CV = logits_CV.exp_()
            grad_CV.scatter_add_(1, target_C1, grad_CV.new_full((), -1.0).expand_as(target_C1))
            grad_CV = grad_CV.mul_(scale_T[part, None]).to(product_dtype)
            if grad_TH is not None:
                grad_TH[part] = grad_CV @ cast_VH
            if grad_VH is not None:
                grad_VH += grad_CV.T @ (hidden_CH if shrink is None else hidden_CH * shrink)
        if grad_VH is not None and shrink is not None:
            grad_VH /= shrink
        ctx.save_for_backward(grad_TH, grad_VH)
        ctx.dtypes = dtypes
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_TH, grad_VH = ctx.saved_tensors
        scaled = [
            None if g is None else (g.to(torch.promote_types(g.dtype, grad.dtype)) * grad).to(dtype)
            for g, dtype in zip((grad_TH, grad_VH), ctx.dtypes, strict=True)
        ]
        return *scaled, None, None, None


def matmul_dtype(weight: Tensor) -> torch.dtype:
    """In which a product with `weight` is taken: autocast's own where that is on."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def _shrink(hidden_TH: Tensor, chunk: int) -> Tensor:
    """The power of two, at most 1, by which hidden states are taken so that no gradient of a weight passes LARGEST."""
    most = (hidden_TH.abs().max().float() * (LIFT * min(chunk, len(hidden_TH)) / LARGEST)).clamp(min=0.5)
    return (most.frexp().mantissa / most).to(hidden_TH.dtype)


def linear_cross_entropy(
    *,
    hidden_TH: Tensor,
    weight_VH: Tensor,
    targets_T: Tensor,
    valid_T: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Mean over valid tokens of the cross-entropy of hidden @ weight.T, in nats; equal to doing it in two steps.

    targets_T: int64. valid_T: bool, all when None; no valid token gives 0. Gradients flow to hidden and weight.
    chunk: tokens whose logits lie in memory at once; None: what suits the device.
    """
    if chunk is None:
        chunk = CPU_CHUNK if hidden_TH.device.type == "cpu" else max(CPU_CHUNK, LOGITS // len(weight_VH))
    dtype = torch.promote_types(hidden_TH.dtype, torch.float32)
    weight_T = torch.ones_like(targets_T, dtype=dtype) if valid_T is None else valid_T.to(dtype)
    count = weight_T.sum().clamp(min=1)
    if matmul_dtype(weight_VH) == torch.float16:
        return _LinearCrossEntropy.apply(hidden_TH, weight_VH, targets_T, weight_T * LIFT, chunk) / (count * LIFT)
    return _LinearCrossEntropy.apply(hidden_TH, weight_VH, targets_T, weight_T / count, chunk)
