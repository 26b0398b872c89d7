"""Tokens per second on the progress bar and in the log."""

import time
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_modules.common import metric_names as names
from lightning_modules.training.cadence import logs_now


class Throughput(pl.Callback):
    """Tokens trained per second over all ranks since the last logged step; validation time is left out."""

    def __init__(self) -> None:
        self._tokens, self._since = 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._tokens, self._since = 0, clock(pl_module.device)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._paused = clock(pl_module.device)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since += clock(pl_module.device) - self._paused

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._tokens += batch["input_ids"].numel() * trainer.world_size
        if logs_now(trainer, batch_idx):
            now = clock(pl_module.device)
            pl_module.log(names.TRAIN_TOKENS_PER_SECOND, self._tokens / (now - self._since), prog_bar=True)
            self._tokens, self._since = 0, now


def clock(device: torch.device) -> float:
    """Seconds, read once the device has done what it was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return time.perf_counter()
