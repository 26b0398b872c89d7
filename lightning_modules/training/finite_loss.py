"""Stops a run whose loss is no longer a number, before the optimizer spreads it into the weights."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

ADVICE = "Lower optimizer.lr, raise optimizer.warmup_steps, or look at this step's data."


class NonFiniteLossError(ValueError):
    """The loss or a weight became NaN or infinite; the last checkpoint is still good."""


class FiniteLoss(pl.Callback):
    """Checks the loss of every micro-step before its backward pass, and the weights before they are validated or saved."""

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"loss is {loss.item()} at optimizer step {trainer.global_step}: stopped before that step, so no "
                f"checkpoint holds it. {ADVICE}"
            )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_weights(pl_module, trainer.global_step)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        check_weights(pl_module, trainer.global_step)


def check_weights(module: nn.Module, step: int) -> None:
    """A finite loss can still make a step that is not: NonFiniteLossError names the first weight."""
    for name, weight in module.named_parameters():
        if not torch.isfinite(weight).all():
            raise NonFiniteLossError(
                f"weight {name} is not finite after optimizer step {step}: stopped before it was saved, so the last "
                f"checkpoint is good. {ADVICE}"
            )
