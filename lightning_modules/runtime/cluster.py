"""The jobs of a sweep that SLURM has: submitted, waited for and noted by the one process that runs the sweep."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_modules.common.say import say
from lightning_modules.runtime import launched, outcome, records, slurm

# Beside a run: which job of SLURM's is at it.
NUMBER = "slurm.id"
# A file that another host wrote shows late on a network file system.
LATE_S = 60.0
# Between two questions to SLURM, at most.
PAUSE_S = 10.0
# So long a controller may be away, as while it is started anew.
SILENT_S = 300.0


class SilentError(ValueError):
    """SLURM does not say whether a job of it is at a run."""


@dataclass(eq=False)
class Job:
    """`given` are the launcher's keys. The objective is None until the job is done."""

    cfg: DictConfig
    given: dict[str, Any]
    folder: Path
    overrides: list[str]
    command: list[str]
    numbers: list[str] = field(default_factory=list)
    objective: float | None = None

    @property
    def number(self) -> str:
        """SLURM's, of the last time that it was submitted."""
        return self.numbers[-1]

    def submit(self) -> None:
        """ValueError with what SLURM has against it."""
        (self.folder / "failure.txt").unlink(missing_ok=True)
        command = self.command
        if self.numbers and (records.begun(self.folder) or {}).get("job") in self.numbers:
            command = launched.going_on(command)
        self.numbers.append(slurm.submit(command, self.cfg, folder=self.folder, given=self.given))
        (self.folder / NUMBER).write_text(self.number)
        say(f"SLURM job {self.number}: {' '.join(self.overrides)}")

    def adopted(self, there: Callable[[], set[str]]) -> bool:
        """Whether SLURM still has it from an earlier sweep, which was killed."""
        path = self.folder / NUMBER
        number = path.read_text() if path.is_file() else ""
        if not number or number not in there():
            return False
        self.numbers.append(number)
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
        self._silent_since: float | None = None

    def take(self, job: Job) -> None:
        """ValueError with what SLURM has against it; SilentError where an earlier sweep's job may be at it."""
        if not job.adopted(self._there):
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

    def _there(self) -> set[str]:
        """Asked until SLURM answers: a second job at a folder is refused there, and the first forgotten."""
        while (there := slurm.waiting_or_running()) is None:
            self._silent_since = self._silent_since or time.monotonic()
            if self.told() or time.monotonic() > self._silent_since + SILENT_S:
                raise SilentError("squeue does not answer, and a job of an earlier sweep may be at it")
            time.sleep(min(1.0, PAUSE_S))
        self._silent_since = None
        return there

    def _look(self) -> None:
        there = slurm.waiting_or_running()
        over = [job for job in self.jobs if there is not None and job.number not in there]
        for job in over:
            end = slurm.ended(job.number, job.folder / slurm.LOG)
            if end is None:
                continue
            if end.code in outcome.STOPPED and len(job.numbers) <= job.given["resubmissions"] and not self.told():
                try:
                    job.submit()
                    continue
                except ValueError as error:
                    end = slurm.Ended(1, how=f"not submitted again: {error}")
            self.jobs.remove(job)
            job.note(end)
        until = time.monotonic() + (0 if over else min(PAUSE_S, 1 + len(self.jobs) / 10))
        while time.monotonic() < until and self.told() == self.cancelled:
            time.sleep(0.2)

    def send_signal(self, _number: int) -> None:
        """The sweep hands on its wish to stop here; `wait` sees it by itself."""
