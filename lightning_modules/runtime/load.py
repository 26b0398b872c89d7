"""How much of the machine other processes take: what makes steps slow without anybody's fault, and timings worthless."""

import os
import time

import psutil

# Cores of others from which a machine counts as busy: half a neighbour on two cores slows a training by a third.
BUSY = 0.3


class Load:
    """Counts from when it is made, or from `again`."""

    def __init__(self) -> None:
        # Ranks of one run stand beside each other under their launcher.
        own = psutil.Process()
        self._root = (own.parent() or own) if "LOCAL_RANK" in os.environ else own
        self.again()

    def again(self) -> None:
        self._since, self._all, self._own = time.perf_counter(), _all(), self._of_own()

    def others(self) -> float:
        """Cores that processes other than this one and its children have taken since, on average."""
        seconds = time.perf_counter() - self._since
        taken = (_all() - self._all) - (self._of_own() - self._own)
        return max(0.0, taken / seconds) if seconds > 0 else 0.0

    def _of_own(self) -> float:
        """Seconds of the processors, those of children that ended included."""
        total = 0.0
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.Error:  # it ended in this moment
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total


def _all() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
