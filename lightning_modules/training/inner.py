"""Training inside something else: a Trainer without logger, checkpoints or bars, that leaves the caller's RNG alone.

It runs where the run's own `trainer` would, on one of its devices; what is computed without training asks `device()`.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_modules.common.making import watcher
from lightning_modules.training.finite_loss import FiniteLoss
from lightning_modules.training.resume_point import random_state, set_random_state


class Machine:
    """What of a `trainer` its inner trainings share: accelerator and precision, and one of its devices."""

    def __init__(self, trainer: Mapping[str, Any]) -> None:
        # float32 is float32: by default torch rounds what goes into convolutions to TF32, and nothing else.
        torch.backends.cudnn.allow_tf32 = False
        self.accelerator = trainer.get("accelerator", "cpu")
        self.precision = str(trainer.get("precision", "32-true"))
        rank, devices = int(os.environ.get("LOCAL_RANK", 0)), trainer.get("devices", 1)
        if isinstance(devices, str) and "," in devices:
            devices = [int(number) for number in devices.split(",") if number.strip()]
        named = None if isinstance(devices, int | str) else list(devices)
        own = [named[rank % len(named)] if named else rank] if named or rank else 1
        self.settings = {
            "accelerator": self.accelerator,
            "precision": self.precision,
            "devices": 1 if self.accelerator == "cpu" else own,
        }
        # One that is an object says by itself which device it is.
        if isinstance(trainer.get("strategy"), pl.strategies.SingleDeviceStrategy):
            self.settings |= {"strategy": trainer["strategy"], "accelerator": "auto", "devices": 1}

    @cached_property
    def device(self) -> torch.device:
        if self.accelerator == "cpu":
            return torch.device("cpu")
        return _quiet(max_steps=1, **self.settings).strategy.root_device


_MACHINE: ContextVar[Machine] = ContextVar("machine", default=Machine({}))  # noqa: B039, the CPU


@contextlib.contextmanager
def on_machine_of(trainer: Mapping[str, Any]) -> Iterator[None]:
    """While it lasts, inner trainings and studies run where `trainer` would: its accelerator, devices and precision."""
    token = _MACHINE.set(Machine(trainer))
    try:
        yield
    finally:
        _MACHINE.reset(token)


def device() -> torch.device:
    """Where inner trainings run, and studies compute."""
    return _MACHINE.get().device


def precision() -> str:
    """That of inner trainings, as Lightning names it; what only measures computes in float32."""
    return _MACHINE.get().precision


class Told(pl.Callback):
    """Tells whoever watches the run of every step of `steps`, of which the watcher may have cut some off."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        watcher().trains(self.steps)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        watcher().step(trainer.global_step, outputs.get("shown", outputs["loss"]))


class InnerTrainer(pl.Trainer):
    """Leaves what it trained on the device: Lightning takes it to the CPU, a backbone that others share with it."""

    def fit(self, model: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        super().fit(model, *args, **kwargs)
        model.to(self.strategy.root_device)


def logs_are_read(module: pl.LightningModule) -> bool:
    """Whether anything would see what a training step logs: an inner training has neither a logger nor a bar."""
    return not isinstance(module.trainer, InnerTrainer)


def inner_trainer(*, max_steps: int, **settings: Any) -> InnerTrainer:
    """`max_steps` steps on one device (`on_machine_of`), no validation unless `settings` ask for it.

    One whose loss or weights are no numbers raises: what it trained would be kept.
    """
    told = Told(max_steps)
    if cap := watcher().cap:
        max_steps = min(max_steps, cap)
        if "val_check_interval" in settings:
            settings["val_check_interval"] = min(settings["val_check_interval"], cap)
    callbacks = [*settings.pop("callbacks", ()), FiniteLoss(), told]
    return _quiet(max_steps=max_steps, callbacks=callbacks, **_MACHINE.get().settings | settings)


def _quiet(**settings: Any) -> InnerTrainer:
    plain: dict[str, Any] = dict(
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    return InnerTrainer(**plain | settings)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """As at the start of a run with this seed; afterwards the random states are what they were."""
    before = random_state()
    pl.seed_everything(seed, workers=True, verbose=False)
    try:
        yield
    finally:
        set_random_state(before)
