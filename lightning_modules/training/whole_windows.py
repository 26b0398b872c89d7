"""Refuses a short last accumulation window before the first step."""

import pytorch_lightning as pl


class WholeWindows(pl.Callback):
    """Lightning steps after a short last window too, dividing by the full length: a wrong gradient, so fail early."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        forwards, accumulate = trainer.num_training_batches, trainer.accumulate_grad_batches
        if forwards % accumulate:
            raise ValueError(
                f"the training data gives {forwards} forwards an epoch, which is no multiple of "
                f"trainer.accumulate_grad_batches, which is {accumulate}; choose a divisor of {forwards} "
                "or other data.global_batch."
            )
