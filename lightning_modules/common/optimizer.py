"""The optimizer every system uses: AdamW with warm-up and cosine decay."""

import math
from typing import Any

import torch
from torch import nn

from lightning_modules.common.bounds import Positive, Share, Weight, Whole


def adamw_with_schedule(
    *,
    module: nn.Module,
    total_steps: int,
    lr: Positive = 1e-3,
    min_lr_ratio: Share = 0.1,
    warmup_steps: Whole = 50,
    weight_decay: Weight = 0.1,
    betas: tuple[Share, Share] = (0.9, 0.95),
    eps: Positive = 1e-8,
) -> dict[str, Any]:
    """Lightning's optimizer dictionary: AdamW; linear warm-up, then cosine to `min_lr_ratio` x lr.

    Vectors (norms, biases) take no weight decay. Steps are optimizer steps.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True
    )
    # A fused step offers to unscale gradients itself, and Lightning therefore clips none under mixed precision. Without
    # the offer whoever scales unscales before the clipping, as for any other optimizer.
    optimizer._step_supports_amp_scaling = False
    return warm_up_and_cosine(optimizer, total_steps=total_steps, warmup_steps=warmup_steps, min_lr_ratio=min_lr_ratio)


def warm_up_and_cosine(
    optimizer: torch.optim.Optimizer, *, total_steps: int, warmup_steps: int, min_lr_ratio: float
) -> dict[str, Any]:
    """Lightning's dictionary: linear warm-up, then cosine to `min_lr_ratio` x lr; a ratio of 1 keeps it constant."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
