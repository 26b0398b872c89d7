"""Balances without a loss: DeepSeek-V3's correction bias (Wang et al. 2024, algorithm 1), at micro or batch scope."""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from lightning_modules.common.bounds import Weight
from lightning_modules.common.choices import check_choice
from lightning_modules.moe.losses import bias_step


class AuxFreeBias(pl.Callback):
    """After each optimizer step adds `rate` x direction to every router's correction bias.

    scope `batch`: sign(mean load - load) of the whole global batch (ranks and accumulation);
    scope `micro`: that sign per micro-batch, averaged. transformers never moves this bias by itself.
    """

    def __init__(self, *, rate: Weight = 0.001, scope: str = "batch") -> None:
        check_choice("callbacks.aux_free_bias.scope", scope, ("micro", "batch"))
        self.rate, self.scope = rate, scope
        self._sum: Tensor | None = None
        self._steps = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not all(hasattr(r, "e_score_correction_bias") for r in pl_module.tap.routers):
            raise ValueError(
                "balance=aux_free needs routers with a correction bias, which "
                f"{type(pl_module.model).__name__} has not; add model.family=deepseek_v3."
            )

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        counts_LME = pl_module.last_routing.frequency.counts_LME
        term = counts_LME.sum(1) if self.scope == "batch" else bias_step(counts_LME=counts_LME)
        self._sum = term if self._sum is None else self._sum + term
        self._steps += 1

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        total, steps = self._sum, self._steps
        self._sum, self._steps = None, 0
        if dist.is_available() and dist.is_initialized() and trainer.world_size > 1:
            dist.all_reduce(total)
        if self.scope == "batch":
            direction_LE = bias_step(counts_LME=total[:, None])
        else:
            direction_LE = total / (steps * trainer.world_size)
        for router, direction_E in zip(pl_module.tap.routers, direction_LE, strict=True):
            router.e_score_correction_bias += self.rate * direction_E.to(router.e_score_correction_bias)
