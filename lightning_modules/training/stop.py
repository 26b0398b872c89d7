"""What happens when SIGTERM or Ctrl-C asks a run to stop."""

import contextlib
import signal
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

    with handled(stop):
        yield


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
