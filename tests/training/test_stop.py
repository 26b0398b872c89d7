"""A wish to stop is not lost, wherever it meets the process."""

import os
import signal
import time

import pytest

from lightning_modules.training.stop import Preempted, stoppable


class Finalized:
    """Ctrl-C while it is let go: what is raised in there is dropped by Python."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


def work(things, reached):
    things.clear()
    reached.append("behind it")
    time.sleep(5)
    reached.append("to the end")


@pytest.mark.parametrize("times", [1, 3])
def test_a_wish_that_a_finalizer_drops_is_told_again(times, capsys):
    reached = []
    with pytest.raises(Preempted) as stopped, stoppable():
        work([Finalized() for _ in range(times)], reached)
    assert reached == ["behind it"]
    assert stopped.value.code == 130
    assert capsys.readouterr().err == ""
