"""A run that is much slower than planned, or than it was, says so once in a while, with the reason that it sees."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from lightning_modules.common.digests import digest
from lightning_modules.common.files import write_atomically
from lightning_modules.runtime.load import BUSY, Load, cores
from lightning_modules.runtime.openmp import is_set

# Steps that are judged together, how many times slower is much, and seconds between two complaints.
WINDOW, MUCH, PAUSE = 10, 2.0, 60.0


def _place(cfg: DictConfig) -> Path:
    """By what decides how long a step takes."""
    about = [OmegaConf.to_container(cfg[key], resolve=True) for key in ("data", "module", "trainer")]
    return Path(cfg.paths.cache) / "plans" / f"{digest([cfg.threads, *about])}.json"


def remember(cfg: DictConfig, seconds: float) -> None:
    """A plan found that a step takes so long; a run of the same config on this machine is measured by it."""
    _place(cfg).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(_place(cfg), json.dumps({"seconds a step": seconds}))


def planned(cfg: DictConfig) -> float | None:
    place = _place(cfg)
    return json.loads(place.read_text())["seconds a step"] if place.is_file() else None


class Pace(pl.Callback):
    """Compares the median of every `WINDOW` optimizer steps with the plan's seconds, or the fastest window's so far.

    Data loading and logging count, validation does not.
    """

    def __init__(self, *, planned: float | None, say: Callable[[str], None]) -> None:
        self.expected, self.say = planned, say
        self.from_plan = planned is not None
        self.load, self.taken, self.spoke = Load(), list[float](), -PAUSE
        self._began: float | None = None
        self._step = 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            return
        now, self._step = time.perf_counter(), trainer.global_step
        if self._began is not None:
            self.taken.append(now - self._began)
        self._began = now
        if len(self.taken) == WINDOW:
            self._judge(median(self.taken), now)
            self.taken.clear()
            self.load.again()

    def on_validation_start(self, *_: Any) -> None:
        self._began = None

    def _judge(self, found: float, now: float) -> None:
        before = self.expected
        if not self.from_plan or self.expected is None:
            self.expected = min(found, self.expected or found)
        if before is None or found < MUCH * before or now - self.spoke < PAUSE:
            return
        self.spoke = now
        than = "planned" if self.from_plan else "they did before"
        self.say(f"Steps take {found:.3g} s, {found / before:.1f} times as long as {than}: {self._reason()}.")

    def _reason(self) -> str:
        others, there, threads = self.load.others(), len(cores()), torch.get_num_threads()
        own = f"{threads} thread{'s' * (threads > 1)}"
        if others >= BUSY:
            more = f", and this one has {own}" if threads + others > there else ""
            if more and not is_set():
                more += ", which spin while they wait; stopped and begun again beside the others, they would sleep"
            return f"other processes take {others:.1f} of its {there} cores{more}"
        if threads > there:
            return f"{own} on {there} cores"
        return f"no other process is at work; {own} on {there} cores"
