"""Of a run's processes on this machine, one that dies takes the others down, and the run is told why.

gloo tells the others at once that a connection is gone; NCCL lets them wait for ten minutes, and then says nothing of why.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies.launchers import subprocess_script

from lightning_modules.runtime.slurm import killed_by

# Within this the others notice by themselves, or are ended.
NOTICE_S = 10.0
LOOK_S = 0.2


class RankDiedError(ChildProcessError):
    """Another process of the run ended before its time; the message says which and of what."""


@contextlib.contextmanager
def together(folder: Path, give_up: Callable[[str], None]) -> Iterator[None]:
    """While it lasts, the processes that Lightning starts for the trainer die together.

    The first process raises RankDiedError in the place of what its collective says; one that hangs calls `give_up` with the
    reason instead and ends. Processes started by torchrun or srun are watched by these.
    """
    watch = Watch(folder, give_up)
    usual = subprocess_script._launch_process_observer
    # Lightning's own watch kills the first process before it can tell anybody why.
    subprocess_script._launch_process_observer = watch.over
    if started_by_the_first():
        threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        # What a collective raises; an error that both have says more by itself.
        reason = watch.reason(wait_s=2.0)
        if reason and str(error) not in reason:
            raise RankDiedError(reason) from error
        raise
    finally:
        subprocess_script._launch_process_observer = usual
        watch.over_now.set()


def started_by_the_first() -> bool:
    """torchrun and srun tell a process its rank as well, but have started it themselves."""
    return int(os.environ.get("LOCAL_RANK", 0)) > 0 and not {"TORCHELASTIC_RUN_ID", "SLURM_PROCID"} & os.environ.keys()


class Watch:
    """Of the first process over those it started."""

    def __init__(self, folder: Path, give_up: Callable[[str], None]) -> None:
        self.folder, self.give_up = folder, give_up
        self.processes: list[subprocess.Popen[Any]] = []
        self.over_now = threading.Event()

    def over(self, processes: list[subprocess.Popen[Any]]) -> None:
        self.processes = processes
        for rank in range(1, len(processes) + 1):
            said_by(self.folder, rank).unlink(missing_ok=True)
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self.over_now.wait(LOOK_S):
            reason = self.reason()
            if reason and not self.over_now.wait(NOTICE_S):
                for process in self.processes:
                    process.kill()
                self.give_up(reason)
                os._exit(1)

    def reason(self, wait_s: float = 0.0) -> str:
        """Which process ended before its time and of what; '' when none did. A death shows a moment after its effects."""
        end = time.monotonic() + wait_s
        while self.processes:
            for rank, process in enumerate(self.processes, start=1):
                if code := process.poll():
                    return f"rank {rank} {self._how(rank, code)}"
            if time.monotonic() >= end:
                break
            time.sleep(LOOK_S / 4)
        return ""

    def _how(self, rank: int, code: int) -> str:
        said = said_by(self.folder, rank)
        if said.is_file():
            return f"failed: {said.read_text()}"
        return f"was {killed_by(signal.Signals(-code))}" if code < 0 else f"ended with exit code {code}"


def said_by(folder: Path, rank: int) -> Path:
    """Where a process that is not the first writes what it failed of."""
    return folder / f"failure.rank{rank}.txt"


def _leave_with(parent: int) -> None:
    """End this process some time after the one that started it."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    time.sleep(NOTICE_S)
    os._exit(1)
