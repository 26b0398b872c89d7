"""Stops a run whose loss is no longer a number, before the optimizer spreads it into the weights."""

import pytorch_lightning as pl
import torch
from torch import Tensor


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite; the last checkpoint is still good."""


class FiniteLoss(pl.Callback):
    """Checks the loss of every micro-step before its backward pass."""

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"loss is {loss.item()} at optimizer step {trainer.global_step}: stopped before that step, so no weight "
                "and no checkpoint holds it. Lower optimizer.lr, raise optimizer.warmup_steps, or look at this step's data."
            )
