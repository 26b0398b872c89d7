"""Stops a run whose loss is no longer a number, before the optimizer spreads it into the weights."""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_modules.training.cadence import logs_now

NEVER = 2**31 - 1
ADVICE = "Lower optimizer.lr, raise optimizer.warmup_steps, or look at this step's data."


class NonFiniteLossError(ValueError):
    """The loss or a weight became NaN or infinite; the last checkpoint is still good."""


class FiniteLoss(pl.Callback):
    """Checks the loss of every micro-step before its backward pass, and the weights before they are validated or saved.

    Off the CPU the host would wait for every loss, so there the first bad step is noted on the device and read when
    metrics are logged; the weights keep it out of any checkpoint in between.
    """

    def __init__(self) -> None:
        self._first_bad: Tensor | None = None

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if loss.device.type == "cpu":
            if not torch.isfinite(loss):
                raise NonFiniteLossError(
                    f"loss is {loss.item()} at optimizer step {trainer.global_step}: stopped before that step, so no "
                    f"checkpoint holds it. {ADVICE}"
                )
            return
        if self._first_bad is None:
            self._first_bad = torch.full((), NEVER, device=loss.device)
        now = torch.where(torch.isfinite(loss.detach()), NEVER, trainer.global_step)
        self._first_bad = torch.minimum(self._first_bad, now)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if logs_now(trainer, batch_idx):
            self._read()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._read()
        check_weights(pl_module, trainer.global_step)

    on_train_end = on_save_checkpoint = on_validation_start

    def _read(self) -> None:
        if self._first_bad is not None and (step := int(self._first_bad)) != NEVER:
            raise NonFiniteLossError(
                f"loss was not finite at optimizer step {step}: stopped before anything was saved, so no checkpoint holds "
                f"it. {ADVICE}"
            )


def check_weights(module: nn.Module, step: int) -> None:
    """A finite loss can still make a step that is not: NonFiniteLossError names the first weight."""
    weights = dict(module.named_parameters())
    if not weights:
        return
    first = next(iter(weights.values()))
    shares = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights.values()]
    fine_N = torch.stack([torch.isfinite(share).all().to(first.device) for share in shares]).int()
    if any(isinstance(weight, DTensor) for weight in weights.values()):
        dist.all_reduce(fine_N, dist.ReduceOp.MIN)
    # One wait for the device, however many weights there are.
    fine = fine_N.tolist()
    if not all(fine):
        name = list(weights)[fine.index(0)]
        raise NonFiniteLossError(
            f"weight {name} is not finite after optimizer step {step}: stopped before it was saved, so the last "
            f"checkpoint is good. {ADVICE}"
        )
