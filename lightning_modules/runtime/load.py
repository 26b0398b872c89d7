"""How much of this process's cores others take: what makes steps slow without anybody's fault, and timings worthless."""

import contextlib
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
        taken = (_all() - self._all) - taken_since(self._own, self._of_own())
        return max(0.0, taken / seconds) if seconds > 0 else 0.0

    def _of_own(self) -> "Tree":
        found: Tree = {}
        for process in [self._root, *self._root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):  # it ended in this moment
                times = process.cpu_times()
                seconds = times.user + times.system + times.children_user + times.children_system
                found[process.pid] = process.ppid(), seconds
        return found


# Of each process its parent and its seconds of the processors, those of children that ended included.
Tree = dict[int, tuple[int, float]]


def taken_since(before: Tree, now: Tree) -> float:
    """Seconds of the processors that the processes of `now` took, as far as they are not in `before`.

    Whoever ends leaves its seconds to its parent. One that outlives its parent, as the server of a sweep's jobs does for a
    moment, leaves them to nobody here: they are no part of either.
    """
    gone = before.keys() - now.keys()
    lost = sum(seconds for pid, (parent, seconds) in before.items() if pid in gone and parent in gone)
    return sum(seconds for _, seconds in now.values()) - (sum(seconds for _, seconds in before.values()) - lost)


def cores() -> list[int]:
    """The numbers of those that this process may use: a cluster gives a job a few of a machine's many."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(psutil.cpu_count() or 1))


def _all() -> float:
    """Seconds that these cores have worked."""
    each, own = psutil.cpu_times(percpu=True), cores()
    # Where a container hides some of the machine's, their numbers say nothing.
    mine = [each[core] for core in own] if max(own) < len(each) else each
    return sum(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0) for times in mine)
