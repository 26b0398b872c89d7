"""What making a thing takes, from a few steps of its training, in a folder that goes away."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from lightning_modules.common.making import Thing, Watcher, is_kept
from lightning_modules.training.inner import device
from lightning_modules.training.throughput import clock

WARM_UP, TIMED = 2, 5


class Cost(NamedTuple):
    """Seconds: of a step, and of all else (data, validation, saving)."""

    step: float
    rest: float

    def of(self, thing: Thing) -> float:
        return (self.rest + self.step * thing.steps) / thing.together


class Training:
    """One training: its steps in earnest, and when each of those tried ended."""

    def __init__(self, steps: int) -> None:
        self.steps, self.ends = steps, [time.perf_counter()]

    @property
    def seconds(self) -> float:
        return self.ends[-1] - self.ends[0]

    @property
    def a_step(self) -> float:
        taken = [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]
        return median(taken[WARM_UP:] or taken)


class Timer(Watcher):
    """What is not kept is made in `folder`, with its trainings cut after `cap` steps: quickly, and good for nothing.

    asked: every thing that was asked for, and whether it was there. costs: by kind.
    """

    def __init__(self, folder: Path, *, cap: int = WARM_UP + TIMED) -> None:
        self.folder, self.cap = folder, cap
        self.asked: dict[tuple[str, ...], tuple[Thing, bool]] = {}
        self.costs: dict[str, Cost] = {}
        self.peak = 0
        self._trainings: list[list[Training]] = []
        # Of the things that the one on top needed made for itself.
        self._inside = [0.0]

    def place(self, place: Path) -> Path:
        return place if is_kept(place) else self.folder / place.parent.name / place.name

    def found(self, thing: Thing) -> None:
        self.asked.setdefault(thing.identity, (thing, True))

    @contextlib.contextmanager
    def making(self, thing: Thing) -> Iterator[None]:
        self.asked.setdefault(thing.identity, (thing, False))
        self._trainings.append([])
        self._inside.append(0.0)
        start = time.perf_counter()
        yield
        taken = time.perf_counter() - start
        trainings, inside = self._trainings.pop(), self._inside.pop()
        self._inside[-1] += taken
        planned = sum(t.steps for t in trainings)
        a_step = sum(t.steps * t.a_step for t in trainings) / planned if planned else 0.0
        self.costs[thing.kind] = Cost(a_step, taken - inside - sum(t.seconds for t in trainings))

    def trains(self, steps: int) -> None:
        if self._trainings:
            self._trainings[-1].append(Training(steps))

    def step(self, step: int, loss: object) -> None:
        self.peak = max(self.peak, psutil.Process().memory_info().rss)
        if self._trainings:
            self._trainings[-1][-1].ends.append(clock(device()))
