"""Balances without a loss: DeepSeek-V3's correction bias (Wang et al. 2024, algorithm 1), at micro or batch scope."""

from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from lightning_modules.common.bounds import Weight
from lightning_modules.moe.losses import bias_step


class AuxFreeBias(pl.Callback):
    """After each optimizer step adds `rate` x direction to every router's correction bias.

    scope `batch`: sign(mean load - load) of the whole global batch (ranks and accumulation);
    scope `micro`: that sign per micro-batch, averaged. transformers never moves this bias by itself.

    The bias stays in float32 (or wider) whatever the trainer's precision: in bfloat16 0.5 + 0.001 is 0.5.
    """

    def __init__(self, *, rate: Weight = 0.001, scope: Literal["micro", "batch"] = "batch") -> None:
        self.rate, self.scope = rate, scope
        self._sum: Tensor | None = None
        self._biases: list[Tensor] = []
        self._saved: list[Tensor] | None = None
        self._steps = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not all(hasattr(r, "e_score_correction_bias") for r in pl_module.tap.routers):
            raise ValueError(
                "balance=aux_free needs routers with a correction bias, which "
                f"{type(pl_module.model).__name__} has not; add model.family=deepseek_v3."
            )

    def _widen(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning has just cast the whole model; what a checkpoint holds of the bias was not cast."""
        for router in pl_module.tap.routers:
            bias = router.e_score_correction_bias
            router.e_score_correction_bias = bias.to(torch.promote_types(bias.dtype, torch.float32))
        self._biases = [router.e_score_correction_bias for router in pl_module.tap.routers]
        if self._saved is not None:
            for bias, saved in zip(self._biases, self._saved, strict=True):
                bias.copy_(saved)
        # Once: a test without a checkpoint of its own is of the biases that training came to.
        self._saved = None

    on_fit_start = on_test_start = _widen

    def state_dict(self) -> dict[str, Any]:
        return {"biases": [bias.cpu().clone() for bias in self._biases]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict["biases"]

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        counts_LME = pl_module.last_routing.frequency.counts_LME
        term = counts_LME.sum(1) if self.scope == "batch" else bias_step(counts_LME=counts_LME)
        self._sum = term if self._sum is None else self._sum + term
        self._steps += 1

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        total, steps = self._sum, self._steps
        self._sum, self._steps = None, 0
        assert total is not None, "no backward before this step"
        if dist.is_available() and dist.is_initialized() and trainer.world_size > 1:
            dist.all_reduce(total)
        if self.scope == "batch":
            direction_LE = bias_step(counts_LME=total[:, None])
        else:
            direction_LE = total / (steps * trainer.world_size)
        for router, direction_E in zip(pl_module.tap.routers, direction_LE, strict=True):
            router.e_score_correction_bias += self.rate * direction_E.to(router.e_score_correction_bias)
