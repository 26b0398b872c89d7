"""What a study needs made, several things at once, each by a process of its own; or a share of it, for a job of a cluster.

A thing follows from its settings and its seed, and each process has the threads that one alone would have, so it is the same
to the bit. Things of one kind need nothing of their kind, so the kinds come one after another: models, then prompts.
"""

import contextlib
import multiprocessing
import os
import re
import signal
from collections.abc import Iterator, Sequence
from itertools import groupby
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lightning_modules.common.making import Thing, Watcher, watched_by
from lightning_modules.common.say import say
from lightning_modules.runtime import devices, forks

if TYPE_CHECKING:
    from lightning_modules.runtime.teller import Making, Teller

PART = re.compile(r"([1-9]\d*)/([1-9]\d*)")


def can_be_made_at_once(cfg: DictConfig) -> Iterator[str]:
    """A check of preflight."""
    # A run of before has neither key in its config.
    if (which := cfg.get("part")) is not None:
        found = PART.fullmatch(str(which))
        if not found or int(found[1]) > int(found[2]):
            yield f"part is {which}; expected K/N, the Kth of N parts, as part=1/4."
        if not cfg.study:
            yield f"part is {which}; expected null for a run that trains itself: it is for what a study needs made."
    if cfg.get("side_by_side", 1) > 1:
        given = f"side_by_side is {cfg.side_by_side}"
        if not cfg.study:
            yield f"{given}; expected 1 for a run that trains itself: it is for what a study needs made."
        if devices.accelerator_of(cfg) != "cpu":
            yield f"{given}; expected 1 on a device: prompts.together fills it, part=K/N takes several."
        if (cfg.get("prompts") or {}).get("together", 1) > 1:
            yield f"{given} and prompts.together is {cfg.prompts.together}; expected 1 for one of the two."


def part(things: Sequence[Thing], which: str) -> list[Thing]:
    """The Kth of N parts of each kind, one thing in N, in order."""
    found = PART.fullmatch(which)
    assert found, which
    first, of = int(found[1]) - 1, int(found[2])
    kinds = list(dict.fromkeys(thing.kind for thing in things))
    return [one for kind in kinds for one in [t for t in things if t.kind == kind and _can_be(t)][first::of]]


def make(cfg: DictConfig, things: Sequence[Thing], *, teller: "Teller", threads: int) -> None:
    """Have what is not kept made by `cfg.side_by_side` processes. What one of them fails at is left to the study.

    things: of `needs`, in order. threads: of each process.
    """
    missing = sum(_can_be(thing) and not thing.is_kept for thing in things)
    if missing < 2:
        return
    settings = OmegaConf.to_container(cfg, resolve=True)
    crew = [_Worker(cfg, settings, threads) for _ in range(min(cfg.side_by_side, missing))]
    try:
        for kind, group in groupby(things, key=lambda thing: thing.kind):
            if not _kind(kind, list(group), crew, teller):
                return
    finally:
        for worker in crew:
            worker.end()


def _can_be(thing: Thing) -> bool:
    return thing.ask is not None and thing.place is not None


def _kind(kind: str, things: list[Thing], crew: list["_Worker"], teller: "Teller") -> bool:
    """Whether all things of one kind are made. They are handed out in order: so their curves begin where they would one
    after another.
    """
    well = True
    left, busy = list(things), dict[Any, _Worker]()
    steps = [thing for thing in things if _can_be(thing) and not thing.is_kept]
    done = 0
    with teller.bar_of(steps, name=f"{len(steps)} of {kind}, {len(crew)} at once") as show:
        while left or busy:
            free = [worker for worker in crew if worker.pipe not in busy]
            while left and (free or left[0].is_kept or not _can_be(left[0])):
                thing = left.pop(0)
                if thing.is_kept:
                    teller.found(thing)
                elif _can_be(thing):
                    worker = free.pop()
                    worker.give(thing, teller.begin(thing))
                    busy[worker.pipe] = worker
            for pipe in wait(list(busy)) if busy else ():
                worker = busy[pipe]
                try:
                    what, *about = worker.pipe.recv()
                except (EOFError, ConnectionError):
                    what, about = "lost", []
                assert worker.one
                if what == "trains":
                    teller.trains(about[0], worker.one)
                elif what == "step":
                    teller.step(about[0], about[1], worker.one)
                    show(done + sum(other.one.done for other in busy.values() if other.one))
                else:
                    del busy[pipe]
                    teller.leave(worker.one)
                    if what == "made":
                        done += worker.one.thing.steps
                        teller.end(worker.one)
                    else:
                        # The study asks for it again, and tells what is wrong with it.
                        left, well = [], False
                    if what == "lost":
                        say(f"The process that made {worker.one.thing.label} was lost; it is made again here.")
                        crew.remove(worker)
    return well


class _Worker:
    """A process, and what it is at."""

    def __init__(self, cfg: DictConfig, settings: Any, threads: int) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        if forks.possible(cfg):
            forks.begin(dict(os.environ))
        context: Any = multiprocessing.get_context("forkserver" if forks.possible(cfg) else "spawn")
        self._process = context.Process(target=_work, args=(theirs, settings, threads, dict(os.environ)))
        self._process.start()
        theirs.close()
        self.one: Making | None = None

    def give(self, thing: Thing, one: "Making") -> None:
        self.one = one
        # Of one that died meanwhile the pipe tells when it is read.
        with contextlib.suppress(ConnectionError):
            self.pipe.send(thing.identity)

    def end(self) -> None:
        with contextlib.suppress(ConnectionError):
            self.pipe.send(None)
        self.pipe.close()
        self._process.terminate()
        self._process.join(30)
        self._process.kill()
        self._process.join()


class _Relay(Watcher):
    """Tells the first process of the training of what was asked for here."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.depth = pipe, 0

    @contextlib.contextmanager
    def making(self, thing: Thing) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def trains(self, steps: int) -> None:
        if self.depth == 1:
            self.pipe.send(("trains", steps))

    def step(self, step: int, loss: Any) -> None:
        if self.depth == 1:
            self.pipe.send(("step", step, float(loss)))

    def read(self, *_: Any) -> None:
        """The first process has told it."""


def _work(pipe: Connection, settings: Any, threads: int, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    # What it says, the first process has said.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, forks.ASKING)
    import torch
    from hydra.utils import instantiate

    from lightning_modules.runtime import quiet
    from lightning_modules.runtime.study import needs
    from lightning_modules.training.inner import on_machine_of
    from lightning_modules.training.stop import Preempted, stoppable

    quiet.hush()
    torch.set_num_threads(threads)
    cfg = OmegaConf.create(settings)
    # The pipe breaks where the first process is gone.
    gone = contextlib.suppress(Preempted, EOFError, ConnectionError)
    with gone, stoppable(), watched_by(_Relay(pipe)), on_machine_of(cfg.trainer):
        study = instantiate(cfg.study)
        study.prepare()
        things = {thing.identity: thing for thing in needs(study)}
        while (identity := pipe.recv()) is not None:
            ask = things[identity].ask
            assert ask, identity
            try:
                ask()
                pipe.send(("made",))
            except Exception:
                pipe.send(("failed",))
