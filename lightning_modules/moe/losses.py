"""Load-balancing losses of a mixture of experts: tensors in, tensors out.

Shape legend: L layers, M micro-batches (blocks) in one forward, T tokens of one forward, K selected experts
a token, E experts. A block is a run of whole sequences; `block_T` says which block a token belongs to.

Source: Qiu et al. 2025 (arXiv 2501.11873), section 2; the z-loss is Zoph et al. 2022 (ST-MoE), equation 5;
the correction bias is Wang et al. 2024 (arXiv 2408.15664), algorithm 1.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.moe.routers import SCORES


class Frequency(NamedTuple):
    """What f_i and P_i are divided by, per block.

    counts_LME: int64 [L, M, E] selections of each expert; f = counts / counts.sum(E).
    tokens_LM:  [L, M] valid tokens that the block's probability sums are divided by: int64, or a mean over blocks.
    """

    counts_LME: Tensor
    tokens_LM: Tensor


def selection_counts(*, indices_LTK: Tensor, valid_T: Tensor, block_T: Tensor, blocks: int, experts: int) -> Tensor:
    """Selections per layer, block and expert, padding left out.

    indices_LTK: int64 [L, T, K]; valid_T: bool [T]; block_T: int64 [T] in [0, blocks).
    Returns int64 [L, blocks, experts]; sums over E to K x the block's valid tokens. Carries no gradient.
    """
    layers, tokens, k = indices_LTK.shape
    with torch.no_grad():
        layer_L11 = torch.arange(layers, device=indices_LTK.device).view(layers, 1, 1)
        slot_LTK = (layer_L11 * blocks + block_T.view(1, tokens, 1)) * experts + indices_LTK
        weight_LTK = valid_T.view(1, tokens, 1).expand(layers, tokens, k).to(torch.int64)
        counts = torch.zeros(layers * blocks * experts, dtype=torch.int64, device=indices_LTK.device)
        counts.scatter_add_(0, slot_LTK.reshape(-1), weight_LTK.reshape(-1))
    return counts.view(layers, blocks, experts)


def block_sums(*, values_LTX: Tensor, valid_T: Tensor, blocks: int) -> Tensor:
    """Sum values over the valid tokens of each of `blocks` equal runs of tokens: [L, T, X] -> [L, blocks, X]."""
    layers, tokens, width = values_LTX.shape
    assert tokens % blocks == 0, (tokens, blocks)
    masked_LTX = torch.where(valid_T.view(1, -1, 1), values_LTX, values_LTX.new_zeros(()))
    return masked_LTX.view(layers, blocks, tokens // blocks, width).sum(2)


def router_probabilities(*, logits_LTE: Tensor, scoring: str) -> Tensor:
    """Routing distribution P, at least float32: the router's scores (`routers.SCORES`), scaled to sum to 1."""
    logits_LTE = logits_LTE.to(torch.promote_types(logits_LTE.dtype, torch.float32))
    scores_LTE = SCORES[scoring](logits_LTE)
    return scores_LTE if scoring == "softmax" else scores_LTE / scores_LTE.sum(-1, keepdim=True)


def load_balancing_loss(*, frequency: Frequency, prob_sums_LME: Tensor, layer_reduction: str = "mean") -> Tensor:
    """LBL = mean over blocks of E * sum_i f_i P_i, then `sum` or `mean` over layers (section 2, equation 3).

    frequency: counts and token denominators a block uses; its own (micro-batch scope) or synchronised ones.
    prob_sums_LME: float [L, M, E], sums of the softmax scores over the block's own valid tokens; the gradient
    flows through them only. A block without selections or tokens adds zero instead of a division by zero.

    With f summing to 1: uniform f or uniform P gives exactly 1; full collapse on K experts gives E/K.
    """
    layers_LM = lbl_per_block(frequency=frequency, prob_sums_LME=prob_sums_LME)
    return reduce_layers(layers_LM.mean(1), layer_reduction)


def lbl_per_block(*, frequency: Frequency, prob_sums_LME: Tensor) -> Tensor:
    """E * sum_i f_i P_i for every layer and block: [L, M]."""
    dtype = torch.promote_types(prob_sums_LME.dtype, torch.float32)
    counts_LME = frequency.counts_LME.to(dtype)
    f_LME = counts_LME / counts_LME.sum(-1, keepdim=True).clamp(min=1)
    mean_LME = prob_sums_LME.to(dtype) / frequency.tokens_LM.to(dtype).clamp(min=1e-9).unsqueeze(-1)
    return prob_sums_LME.shape[-1] * (f_LME * mean_LME).sum(-1)


def reduce_layers(values_L: Tensor, layer_reduction: str) -> Tensor:
    """Megatron and torchtitan sum the layers, OLMo-core and MegaBlocks average them; the paper does not say."""
    if layer_reduction == "mean":
        return values_L.mean(0)
    if layer_reduction == "sum":
        return values_L.sum(0)
    raise ValueError(f"balance.layer_reduction is {layer_reduction!r}; expected 'mean' or 'sum'.")


def router_z_loss(*, logits_LTE: Tensor, valid_T: Tensor, layer_reduction: str = "mean") -> Tensor:
    """Mean over valid tokens of logsumexp(router logits)^2; keeps the router's logits small."""
    z_LT = torch.logsumexp(logits_LTE.to(torch.promote_types(logits_LTE.dtype, torch.float32)), -1) ** 2
    z_LT = torch.where(valid_T, z_LT, z_LT.new_zeros(()))
    return reduce_layers(z_LT.sum(1) / valid_T.sum().clamp(min=1), layer_reduction)


def bias_step(*, counts_LME: Tensor) -> Tensor:
    """Direction of the aux-free correction bias: mean over blocks of sign(mean load - load), float32 [L, E].

    With synchronised counts every block is the same and the direction is that of the whole batch.
    """
    # mean - load, times the number of experts: exact in integers.
    surplus_LME = counts_LME.sum(-1, keepdim=True) - counts_LME.shape[-1] * counts_LME
    return torch.sign(surplus_LME).float().mean(1)
