"""When a callback measures: at the trainer's logging cadence, once a whole accumulation window is through."""

import pytorch_lightning as pl


def logs_now(trainer: pl.Trainer, batch_idx: int) -> bool:
    """For `on_train_batch_end`: the optimizer has just stepped, and this step's metrics are logged."""
    window_ends = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return window_ends and trainer.global_step % trainer.log_every_n_steps == 0
