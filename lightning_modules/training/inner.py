"""Training inside something else: a Trainer without logger, checkpoints or bars, that leaves the caller's RNG alone."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl

from lightning_modules.common.making import watcher
from lightning_modules.training.resume_point import random_state, set_random_state


class Told(pl.Callback):
    """Tells whoever watches the run of every step of `steps`, of which the watcher may have cut some off."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        watcher().trains(self.steps)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        watcher().step(trainer.global_step, outputs["loss"])


def inner_trainer(*, max_steps: int, **settings: Any) -> pl.Trainer:
    """One CPU device, `max_steps` steps, no validation unless `settings` ask for it."""
    told = Told(max_steps)
    if cap := watcher().cap:
        max_steps = min(max_steps, cap)
        if "val_check_interval" in settings:
            settings["val_check_interval"] = min(settings["val_check_interval"], cap)
    plain: dict[str, Any] = dict(
        accelerator="cpu",
        devices=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    callbacks = [*settings.pop("callbacks", ()), told]
    return pl.Trainer(max_steps=max_steps, callbacks=callbacks, **plain | settings)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """As at the start of a run with this seed; afterwards the random states are what they were."""
    before = random_state()
    pl.seed_everything(seed, workers=True, verbose=False)
    try:
        yield
    finally:
        set_random_state(before)
