"""Jobs of a sweep as forks of a process that has everything imported: a process each, without the seconds of imports.

multiprocessing's fork server is that process. It imports and does nothing else: no device is touched in it and nothing
is computed, so a fork of it is as clean as a process that has just begun. What wants a GPU or several ranks is started
as a command all the same (`possible`).
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import psutil
from omegaconf import DictConfig

from lightning_modules.common.files import stamp
from lightning_modules.runtime import devices

PROJECT = Path(__file__).parents[2]
PRELOAD = "lightning_modules.runtime.preload"
ASKING = (signal.SIGTERM, signal.SIGINT)
# What multiprocessing says of a process whose server died before it.
LOST = 255
OURS = ("lightning_modules", "datamodules")
# When the server was begun.
_sources: dict[Path, list[int]] | None = None


def possible(cfg: DictConfig) -> bool:
    """Whether a job with this config may be forked: on the CPU, in one process, where forking is safe.

    FACET_FORKS=0 in the environment starts every job as a command.
    """
    if os.environ.get("FACET_FORKS") == "0":
        return False
    return sys.platform == "linux" and devices.accelerator_of(cfg) == "cpu" and devices.processes(cfg) == 1


def sources() -> dict[Path, list[int]]:
    """Every file of ours that a job may import, with what it is known by."""
    files = [PROJECT / "main.py", *(path for room in OURS for path in (PROJECT / room).rglob("*.py"))]
    return {path: stamp(path) for path in files}


def up_to_date() -> bool:
    """Whether a fork would run what stands on the disk: the server has imported what did when the sweep began, and a fork
    of it imports the rest as it is now.
    """
    return _sources is None or _sources == sources()


def begin(environment: dict[str, str]) -> None:
    """Start the server, unless it runs; jobs have its libraries, which read `environment` as they are loaded."""
    # joblib's workers say "loky", a way to start processes that a fork of the server knows nothing of.
    if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
        multiprocessing.set_start_method(None, force=True)
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOAD])
    # It unblocks the two signals, so it has to be there before they are blocked.
    resource_tracker.ensure_running()
    global _sources
    _sources = _sources or sources()
    # The server outlives a wish to stop, which goes to the whole group of processes: it has to tell how its jobs ended.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    path = os.pathsep.join([str(PROJECT), *filter(None, [environment.get("PYTHONPATH")])])
    try:
        with _as(environment | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Fork:
    """`python main.py OVERRIDES` in a fork; signals and exit codes are those of a process of its own."""

    def __init__(self, command: list[str], *, environment: dict[str, str], silent: bool) -> None:
        """command: as for a process, Python first; silent: what it says goes nowhere."""
        begin(environment)
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_work, args=(command[1:], environment, silent)
        )
        self._process.start()
        self.process = self._process.pid
        self._known: psutil.Process | None = None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._known = psutil.Process(self.process)

    def send_signal(self, number: int) -> None:
        # Asking multiprocessing whether it lives would take the exit code away from `wait`, where a signal meets it.
        if self._known:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._known.send_signal(number)

    def wait(self) -> int:
        """The exit code; of one that a signal killed minus its number; LOST when the server was killed."""
        self._process.join()
        code = self._process.exitcode
        assert code is not None
        if code == LOST and self._known:
            self._known.wait()
        return code


def _work(arguments: list[str], environment: dict[str, str], silent: bool) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if silent:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    sys.argv = arguments
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
        runpy.run_path(arguments[0], run_name="__main__")
    except KeyboardInterrupt:
        # As Python itself ends by Ctrl-C.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        # A process of multiprocessing leaves them out.
        atexit._run_exitfuncs()


@contextlib.contextmanager
def _as(environment: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
