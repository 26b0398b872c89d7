"""The jobs of a sweep that SLURM has: submitted, waited for and noted by the one process that runs the sweep."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_modules.common.say import say
from lightning_modules.runtime import outcome, records, slurm

# Beside a run: which job of SLURM's is at it.
NUMBER = "slurm.id"
# A file that another host wrote shows late on a network file system.
LATE_S = 60.0
# Between two questions to SLURM, at most.
PAUSE_S = 10.0


@dataclass(eq=False)
class Job:
    """`given` are the launcher's keys. The objective is nan until the job is done."""

    cfg: DictConfig
    given: dict[str, Any]
    folder: Path
    overrides: list[str]
    command: list[str]
    number: str = ""
    submissions: int = 0
    objective: float = field(default=float("nan"))

    def submit(self) -> None:
        """ValueError with what SLURM has against it."""
        (self.folder / "failure.txt").unlink(missing_ok=True)
        self.number = slurm.submit(self.command, self.cfg, folder=self.folder, given=self.given)
        self.submissions += 1
        (self.folder / NUMBER).write_text(self.number)
        say(f"SLURM job {self.number}: {' '.join(self.overrides)}")

    def adopted(self) -> bool:
        """Whether SLURM still has it from an earlier sweep, which was killed."""
        path = self.folder / NUMBER
        self.number = path.read_text() if path.is_file() else ""
        if not self.number or self.number not in (slurm.waiting_or_running() or ()):
            return False
        say(f"SLURM job {self.number} of an earlier sweep is at it: {' '.join(self.overrides)}")
        return True

    def note(self, end: slurm.Ended) -> None:
        told = (self.cfg, self.folder, self.overrides)
        if end.code == 0 and not self._left_a_result():
            outcome.note(*told, status="failed", reason=f"it left no {records.RESULT} in {self.folder}")
            return
        how = f"{outcome.why(end.code, self.folder)} (first: {end.first})" if end.first else end.how
        self.objective = outcome.settle(*told, code=end.code, how=how)
        if end.code == 0:
            say(f"done: {' '.join(self.overrides)}")

    def _left_a_result(self) -> bool:
        until = time.monotonic() + LATE_S
        while not (self.folder / records.RESULT).is_file() and time.monotonic() < until:
            time.sleep(1)
        return (self.folder / records.RESULT).is_file()


class Cluster:
    """`told`: whether the sweep was asked to stop. When it dies instead, its jobs go on, and the same command waits for
    them."""

    def __init__(self, told: Callable[[], bool]) -> None:
        self.told, self.jobs, self.cancelled = told, list[Job](), False

    def take(self, job: Job) -> None:
        """ValueError with what SLURM has against it."""
        if not job.adopted():
            while len(self.jobs) >= job.given["at_once"] and not self.told():
                self._look()
            job.submit()
        self.jobs.append(job)

    def wait(self) -> None:
        """Until every job is over and noted."""
        while self.jobs:
            if self.told() and not self.cancelled:
                slurm.cancel(job.number for job in self.jobs)
                self.cancelled = True
            self._look()

    def _look(self) -> None:
        there = slurm.waiting_or_running()
        over = [job for job in self.jobs if there is not None and job.number not in there]
        for job in over:
            end = slurm.ended(job.number, job.folder / slurm.LOG)
            if end is None:
                continue
            if end.code in outcome.STOPPED and job.submissions <= job.given["resubmissions"] and not self.told():
                job.submit()
                continue
            self.jobs.remove(job)
            job.note(end)
        until = time.monotonic() + (0 if over else min(PAUSE_S, 1 + len(self.jobs) / 10))
        while time.monotonic() < until and self.told() == self.cancelled:
            time.sleep(0.2)

    def send_signal(self, _number: int) -> None:
        """The sweep hands on its wish to stop here; `wait` sees it by itself."""
