"""Training inside something else: a Trainer without logger, checkpoints or bars, that leaves the caller's RNG alone."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl

from lightning_modules.training.resume_point import random_state, set_random_state


def inner_trainer(*, max_steps: int, **settings: Any) -> pl.Trainer:
    """One CPU device, `max_steps` steps, no validation unless `settings` ask for it."""
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
    return pl.Trainer(max_steps=max_steps, **plain | settings)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """As at the start of a run with this seed; afterwards the random states are what they were."""
    before = random_state()
    pl.seed_everything(seed, workers=True, verbose=False)
    try:
        yield
    finally:
        set_random_state(before)
