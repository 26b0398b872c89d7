"""One mean over an optimizer step, however its items are dealt over ranks and accumulation."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor


def mean_counts(module: pl.LightningModule, batch: Any, batch_idx: int, *, counted: Callable[[Any], Tensor]) -> Tensor:
    """Items of one forward in the mean over a step's, [X], for `on_train_batch_start` of a step's first forward.

    What each forward's sum of losses is divided by, where the step's loss is the mean over all its items: a mean of the
    forwards' own means would weigh an item by how few stand beside it. counted: of a batch, the numbers of X kinds of items,
    int64 [X].
    """
    trainer: Any = module.trainer
    later = range(batch_idx + 1, batch_idx + trainer.accumulate_grad_batches)
    window = [batch, *(trainer.datamodule.train_batch(index) for index in later)]
    total_X = torch.stack([counted(each).to(module.device) for each in window]).sum(0)
    if trainer.world_size > 1:
        dist.all_reduce(total_X)
    return total_X / (len(window) * trainer.world_size)
