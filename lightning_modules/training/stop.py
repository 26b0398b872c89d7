"""What happens when SIGTERM or Ctrl-C asks a run to stop."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

ASKING = (signal.SIGTERM, signal.SIGINT)


class Preempted(BaseException):
    """A signal asked the run to stop; its state is saved. `code` is the exit status, 128 + signal."""

    def __init__(self, number: int, *, saved: bool = True) -> None:
        self.code = 128 + number
        where = "the same command goes on from " + ("here" if saved else "what was saved last")
        super().__init__(f"stopped by {signal.Signals(number).name}; {where}")


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and Ctrl-C raise Preempted where they meet it: what is costly is kept already, so nothing is to be saved.

    Without it a Trainer within a study turns SIGTERM into an exit with code 0, as if all were done; and in a process
    started in the background by a shell script Ctrl-C's signal is ignored.
    """

    def stop(number: int, _frame: Any) -> None:
        raise Preempted(number)

    with handled(stop), _told_again():
        yield


@contextlib.contextmanager
def _told_again() -> Iterator[None]:
    """Python drops what is raised while an object is finalized, and so the wish to stop: the process tells itself anew."""
    usual = sys.unraisablehook
    again: threading.Timer | None = None

    def dropped(found: Any) -> None:
        nonlocal again
        if not isinstance(found.exc_value, Preempted):
            usual(found)
        elif again is None or not again.is_alive():
            # Not from here: what is raised in this function is dropped too.
            again = threading.Timer(0.01, os.kill, (os.getpid(), found.exc_value.code - 128))
            again.start()

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = usual
        if again is not None:
            again.cancel()
            again.join()


@contextlib.contextmanager
def handled(handler: Any) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in ASKING}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def deaf() -> None:
    """From here on the process is ending: the same wish told again, by a sweep that hands it on, disturbs no more."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
