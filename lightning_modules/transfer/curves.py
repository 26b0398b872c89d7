"""How fast a task is tuned from a start: validation accuracy by step, and the ratio of two such curves."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.common.making import Thing, watcher
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.prompts import Prompts
from lightning_modules.skill_neurons.prompt_study import accuracy
from lightning_modules.training.inner import inner_trainer, seeded

Curve = dict[int, float]


class Cadence(pl.Callback):
    """Validation accuracy every `every` steps, the start (step 0) and the end included."""

    def __init__(self, every: int, data: Any) -> None:
        self.every, self.data = every, data
        self.found: Curve = {}

    def on_train_start(self, trainer: pl.Trainer, module: PromptTuning) -> None:
        self._measure(0, module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: PromptTuning, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self._measure(trainer.global_step, module)

    def on_train_end(self, trainer: pl.Trainer, module: PromptTuning) -> None:
        if trainer.global_step not in self.found:
            self._measure(trainer.global_step, module)

    def _measure(self, step: int, module: PromptTuning) -> None:
        self.found[step] = accuracy(module.backbone, self.data, module.tuner.prompt(), split="val")


def thing(prompts: Prompts, task: str, *, seed: int, cadence: int, arm: str) -> Thing:
    """What `curve` trains; it is not kept."""
    why = "its accuracy is measured on the way"

    def ask() -> Curve:
        return curve(prompts, task, seed=seed, start=None, cadence=cadence, arm=arm)

    return Thing("measured tuning", task, f"seed {seed}, {arm}", prompts.tuning["steps"], why, ask=ask)


def curve(prompts: Prompts, task: str, *, seed: int, start: Tensor | None, cadence: int, arm: str) -> Curve:
    """Step -> validation accuracy of tuning `task` from `start`, or, where it is None, as its kept prompt begins.

    arm: what `start` is, for whoever watches.
    """
    tuner = prompts.started(task, seed=seed)
    watch = Cadence(cadence, prompts.data(task))
    with seeded(seed), watcher().making(thing(prompts, task, seed=seed, cadence=cadence, arm=arm)):
        module = prompts.module(tuner, prompts.tuning)
        if start is not None:
            with torch.no_grad():
                tuner.weight.copy_(start)
        trainer = inner_trainer(max_steps=prompts.tuning["steps"], callbacks=[watch])
        trainer.fit(module, datamodule=prompts.datamodule(task, seed=seed))
    return watch.found


def reached(found: Curve, score: float) -> int | None:
    """The first step with at least `score`, up to the rounding of a difference; None when there is none."""
    return next((step for step in sorted(found) if found[step] >= score - 1e-9), None)


def speed_ups(vanilla: Curve, transferred: Curve, *, tolerance: float) -> dict[str, float | None]:
    """Steps of vanilla tuning over those of the transferred start.

    `convergence`: each to within `tolerance` of its own best. `comparable`: to vanilla's best less `tolerance`; None,
    censored, when the transferred one never gets there. A start that is there at step 0 counts as one cadence: the ratio is
    then a lower bound.
    """
    cadence = sorted(vanilla)[1]
    steps = reached(vanilla, max(vanilla.values()) - tolerance) or cadence
    own = reached(transferred, max(transferred.values()) - tolerance) or cadence
    there = reached(transferred, max(vanilla.values()) - tolerance)
    return {"convergence": steps / own, "comparable": None if there is None else steps / max(there, cadence)}
